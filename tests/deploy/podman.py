#!/usr/bin/env python3
"""Turns a rendered overlay into what `podman kube play` takes, and changes nothing else.

Reads the manifests from standard input; arguments: the folder to write to, the address of this machine as browsers see it, and
the ports of the page and of the relay there. What a cluster does and podman does not: Services (names of pods stand for them), a DaemonSet on one node is a
Deployment, Secrets are made by `podman secret`, fields of the node, probes over HTTP.
"""

import json
import sys
from pathlib import Path

import yaml

WORKERS = 2


def environment(container, host, turn_port):
    for variable in container.get("env", []):
        if variable["name"] == "HOST_IP":
            del variable["valueFrom"]
            variable["value"] = host
        if "value" in variable:
            variable["value"] = variable["value"].replace("$(HOST_IP):3478", f"{host}:{turn_port}")


def deployment(document, host, page_port, turn_port):
    spec = document["spec"]["template"]["spec"]
    for key in ("topologySpreadConstraints", "priorityClassName", "serviceAccountName"):
        spec.pop(key, None)
    for container in spec["containers"]:
        for key in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
            container.pop(key, None)
        environment(container, host, turn_port)
        container["image"] = f"localhost/{container['image']}"
        if document["metadata"]["name"] == "front":
            container["ports"][0]["hostPort"] = page_port
        # It gives every port that is named one of this machine's, where a cluster does so only for those with a hostPort.
        container["ports"] = [port for port in container["ports"] if "hostPort" in port]
        for port in container["ports"]:
            if port["hostPort"] == 3478:
                port["hostPort"] = turn_port
    document["kind"] = "Deployment"
    document["spec"].pop("updateStrategy", None)
    document["spec"]["replicas"] = WORKERS if document["metadata"]["name"] == "worker" else 1
    return document


def main():
    folder, host, page_port, turn_port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    kept = []
    for document in yaml.safe_load_all(sys.stdin):
        if document["kind"] == "ConfigMap":
            data = document["data"]
            if "VIGIE_WORKERS" in data:
                data["VIGIE_WORKERS"] = ",".join(f"worker-pod-{n}:8090" for n in range(WORKERS))
            kept.append(document)
        elif document["kind"] in ("Deployment", "DaemonSet"):
            kept.append(deployment(document, host, page_port, turn_port))
        elif document["kind"] == "Secret":
            name = document["metadata"]["name"]
            (folder / f"secret-{name}.json").write_text(json.dumps(document["data"]))
    (folder / "pods.yaml").write_text(yaml.safe_dump_all(kept))


if __name__ == "__main__":
    main()
