#!/usr/bin/env python3
"""Checks k8s/ without a cluster: everything renders, is valid for several versions of Kubernetes, and agrees with the program.

Arguments: the vigie binary. Needs kubectl, PyYAML and kubernetes-validate (tests/deploy/check installs them).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ["1.34.0", "1.35.0", "1.36.0", "1.37.0"]
# Kinds of operators: Kubernetes itself has no schema of them.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "InferenceService"}
# What Prometheus, its client library and kube-state-metrics export, not vigie.
FOREIGN_METRICS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "kube_pod_container_resource_limits"}
VIGIE_IMAGES = ("vigie-front", "vigie-worker", "vigie-worker-gpu")
# Labels of pods that are not vigie's: those that may run models, and cert-manager's while it asks for a certificate.
GUESTS = {"vigie/may-run-models", "acme.cert-manager.io/http01-solver"}
ROLES = {"signal": "signal", "worker": "worker", "serve": "serve"}

problems = []


def check(condition, where, message):
    if not condition:
        problems.append(f"{where}: {message}")


def render(folder, kubectl):
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        problems.append(f"{folder}: does not render: {done.stderr.strip()}")
        return []
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def copy_with_secrets(target):
    """A copy of k8s/ in which every overlay has secrets, as k8s/secrets makes them."""
    shutil.copytree(ROOT / "k8s", target / "k8s", ignore=shutil.ignore_patterns("secrets.env"))
    for overlay in sorted((target / "k8s/overlays").iterdir()):
        subprocess.run([target / "k8s/secrets", overlay.name], check=True, capture_output=True)
    return target / "k8s"


def pod_spec(document):
    template = document.get("spec", {}).get("template")
    if document["kind"] == "CronJob":
        template = document["spec"]["jobTemplate"]["spec"]["template"]
    if document["kind"] == "InferenceService":
        # KServe makes the pod of it.
        predictor = document["spec"]["predictor"]
        template = {"metadata": {"labels": predictor["labels"]}, "spec": predictor}
    return template


def containers(documents):
    """Every container of the pods, with the document that it stands in."""
    for document in documents:
        for container in (pod_spec(document) or {}).get("spec", {}).get("containers", []):
            yield document, container


def matches(selector, labels):
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        value, operator = labels.get(rule["key"]), rule["operator"]
        if operator == "In" and value not in rule["values"]:
            return False
        if operator == "NotIn" and value in rule["values"]:
            return False
        if operator == "Exists" and value is None:
            return False
    return True


class Program:
    """What the binary itself says of its settings, and the source of its metrics and routes."""

    def __init__(self, binary):
        self.variables = {}
        for role in ROLES.values():
            help_text = subprocess.run([binary, role, "--help"], capture_output=True, text=True, check=True).stdout
            self.variables[role] = set(re.findall(r"\[env: (VIGIE_[A-Z0-9_]+)=?", help_text))
        metrics = (ROOT / "src/telemetry/metrics.rs").read_text()
        self.metrics = set(re.findall(r'"(vigie_[a-z0-9_]+)"', metrics))
        queue = "".join(file.read_text() for file in (ROOT / "src/jobs/queue").rglob("*.rs"))
        self.queue_names = set(re.findall(r'"([A-Za-z_.]+)"', queue))
        self.turn_variables = set(re.findall(r"VIGIE_TURN_[A-Z_]+", (ROOT / "turn/start").read_text()))
        sources = [file for part in ("signalling", "live", "oip") for file in (ROOT / "src" / part).glob("*.rs")]
        self.routes = {route for file in sources for route in re.findall(r'\.route\("([^"]+)"', file.read_text())}

    def knows_metric(self, name):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        return name in self.metrics or base in self.metrics or name in FOREIGN_METRICS


def check_schema(where, documents):
    for document in documents:
        if document["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                check(False, f"{where} {document['kind']}/{document['metadata']['name']}", f"{version}: {error.message}")


def check_pods(where, documents, program):
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    for document in documents:
        template = pod_spec(document)
        if not template or "spec" not in template:
            continue
        place = f"{where} {document['kind']}/{document['metadata']['name']}"
        spec = template["spec"]
        account = spec.get("serviceAccountName")
        check(account is None or ("ServiceAccount", account) in named, place, f"no ServiceAccount {account}")
        check(spec.get("securityContext", {}).get("runAsNonRoot"), place, "may run as root")
        priority = spec.get("priorityClassName")
        check(priority is None or ("PriorityClass", priority) in named, place, f"no PriorityClass {priority}")
        for container in spec["containers"]:
            check_container(place, container, spec, named, program)


def environment(container, named, place):
    """The variables that a container gets, and their values where the manifests have them."""
    found = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            name = source["configMapRef"]["name"]
            config = named.get(("ConfigMap", name))
            check(config, place, f"no ConfigMap {name}")
            found.update((config or {}).get("data", {}))
        elif not source["secretRef"].get("optional"):
            check(("Secret", source["secretRef"]["name"]) in named, place, f"no Secret {source['secretRef']['name']}")
    for variable in container.get("env", []):
        found[variable["name"]] = variable.get("value", "")
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        # Rollout examples stand on a secret that is there already.
        secret = named.get(("Secret", reference["name"])) if reference else None
        if secret:
            check(reference["key"] in secret["data"], place, f"the secret has no {reference['key']}")
    return found


def check_container(place, container, spec, named, program):
    security = container.get("securityContext", {})
    check(security.get("readOnlyRootFilesystem"), place, "its root is writable")
    check(security.get("allowPrivilegeEscalation") is False, place, "may escalate privileges")
    check(security.get("capabilities", {}).get("drop") == ["ALL"], place, "keeps capabilities")
    resources = container.get("resources", {})
    check({"cpu", "memory"} <= set(resources.get("requests", {})), place, "requests no CPU or memory")
    check("memory" in resources.get("limits", {}), place, "has no memory limit")
    variables = environment(container, named, place)
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        handler = container.get(probe, {}).get("httpGet") or container.get(probe, {}).get("tcpSocket")
        if handler:
            check(handler["port"] in ports or handler["port"] in ports.values(), place, f"{probe}: no port {handler['port']}")
    image = container["image"].split("/")[-1].split(":")[0]
    if image == "vigie-turn":
        for name in variables:
            check(name in program.turn_variables, place, f"turn/start reads no {name}")
    if image not in VIGIE_IMAGES:
        return
    role = container["args"][0]
    for name in variables:
        if name.startswith("VIGIE_"):
            check(name in program.variables[role], place, f"vigie {role} reads no {name}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        check(path in program.routes, place, f"{probe}: vigie has no {path}")
    listening = {"signal": "VIGIE_LISTEN", "worker": "VIGIE_OIP" if "VIGIE_OIP" in variables else "VIGIE_CONTROL"}[role]
    address = variables[listening]
    port = int(variables["PORT"] if address == "kserve" else address.rsplit(":", 1)[1])
    check(port in ports.values(), place, f"{listening} is {port}, the container's ports are {ports}")
    if role == "worker":
        grace, drain = spec["terminationGracePeriodSeconds"], int(variables["VIGIE_DRAIN_SECONDS"])
        check(grace > drain, place, f"is killed after {grace} s, but drains for {drain} s")


def check_selectors(where, documents, program):
    pods = [pod_spec(document) for document in documents if pod_spec(document)]
    labels = [pod["metadata"]["labels"] for pod in pods]
    for document in documents:
        place = f"{where} {document['kind']}/{document['metadata']['name']}"
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            chosen = [pod for pod in pods if matches({"matchLabels": spec["selector"]}, pod["metadata"]["labels"])]
            check(chosen, place, "selects no pod")
            names = {port["name"] for pod in chosen for container in pod["spec"]["containers"] for port in container["ports"]}
            for port in spec["ports"]:
                check(port["targetPort"] in names, place, f"its pods have no port {port['targetPort']}")
        elif document["kind"] in ("PodDisruptionBudget",):
            check(any(matches(spec["selector"], label) for label in labels), place, "selects no pod")
        elif document["kind"] == "NetworkPolicy" and GUESTS & set(spec["podSelector"].get("matchLabels", {})):
            continue
        elif document["kind"] == "NetworkPolicy" and spec["podSelector"]:
            check(any(matches(spec["podSelector"], label) for label in labels), place, "selects no pod")
        elif document["kind"] in ("Deployment", "DaemonSet", "StatefulSet"):
            own = pod_spec(document)["metadata"]["labels"]
            check(matches(spec["selector"], own), place, "does not select its own pods")
            others = [other for other in documents
                      if other is not document and other["kind"] == document["kind"] and pod_spec(other)]
            for other in others:
                check(not matches(spec["selector"], pod_spec(other)["metadata"]["labels"]), place,
                      f"also selects the pods of {other['metadata']['name']}")
        elif document["kind"] == "Ingress":
            services = {other["metadata"]["name"] for other in documents if other["kind"] == "Service"}
            for rule in spec["rules"]:
                for path in rule["http"]["paths"]:
                    check(path["backend"]["service"]["name"] in services, place, "leads to a service that is not there")
        elif document["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = spec["scaleTargetRef"]["name"]
            scaled = [other for other in documents if other["kind"] == "Deployment" and other["metadata"]["name"] == target]
            check(scaled, place, f"scales {target}, which is not there")
            check(all("replicas" not in other["spec"] for other in scaled), place, f"fights with the replicas of {target}")
            for trigger in spec.get("triggers", []):
                if trigger["type"] == "nats-jetstream":
                    for key in ("stream", "consumer"):
                        name = trigger["metadata"][key]
                        check(name in program.queue_names, place, f"the queue has no {key} {name}")


# Who may speak to whom (ARCHITECTURE.md, "Deployment"): from, to, port, protocol.
FLOWS = [
    (None, "front", 8080, "TCP"), ("front", "worker", 8090, "TCP"),
    (None, "turn", 3478, "UDP"), (None, "turn", 3478, "TCP"),
    ("turn", "worker", 50000, "UDP"), ("worker", "turn", 50000, "UDP"),
]
FORBIDDEN = [
    (None, "worker", 8090, "TCP"), (None, "worker", 50000, "UDP"), ("turn", "front", 8080, "UDP"),
    ("turn", "worker", 8090, "TCP"), ("worker", "worker", 8090, "TCP"), ("turn", "turn", 50000, "TCP"),
    ("worker", "front", 50000, "UDP"), ("front", "turn", 50000, "UDP"),
]


def allows(policies, direction, own, peer, port, protocol):
    """Whether the policies of a pod labelled `own` let `peer` (labels, or None for a stranger) through."""
    rules_of, peers_of = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    applying = [p["spec"] for p in policies if direction in p["spec"]["policyTypes"] and matches(p["spec"]["podSelector"], own)]
    if not applying:
        return True
    for spec in applying:
        for rule in spec.get(rules_of, []):
            peers = rule.get(peers_of)
            let_in = peers is None or (peer is not None and any(
                "namespaceSelector" not in p and matches(p.get("podSelector", {}), peer) for p in peers))
            ports = rule.get("ports")
            fits = ports is None or any(
                p.get("protocol", "TCP") == protocol and p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)
            if let_in and fits:
                return True
    return False


def check_flows(where, documents):
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    if not policies:
        return
    labels = {pod_spec(d)["metadata"]["labels"]["app.kubernetes.io/component"]: pod_spec(d)["metadata"]["labels"]
              for d in documents if d["kind"] in ("Deployment", "DaemonSet")}
    for expected, flows in ((True, FLOWS), (False, FORBIDDEN)):
        for source, target, port, protocol in flows:
            peer = labels.get(source)
            arrives = allows(policies, "Ingress", labels[target], peer, port, protocol)
            leaves = peer is None or allows(policies, "Egress", peer, labels[target], port, protocol)
            word = "is not allowed" if expected else "is allowed"
            check((arrives and leaves) == expected, where, f"{source or 'a stranger'} -> {target} {port}/{protocol} {word}")


def images_of(folder):
    """The images that an overlay names, and those that it stands on."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    below = [folder / resource for resource in kustomization.get("resources", []) if (folder / resource / "kustomization.yaml").exists()]
    own = {image.get("newName", image["name"]) + ":" + image["newTag"] for image in kustomization.get("images", [])}
    return own.union(*(images_of(folder) for folder in below))


def check_images(where, documents, given):
    """Every image of vigie's has the registry and the tag that the overlay gives it."""
    for document, container in containers(documents):
        if container["image"].split("/")[-1].startswith("vigie-"):
            check(container["image"] in given, where, f"{document['metadata']['name']} runs {container['image']}, which the overlay does not name")


def check_proxies(where, documents):
    """Who is behind an Ingress must not share the limits of its address."""
    if not any(document["kind"] == "Ingress" for document in documents):
        return
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    for document, container in containers(documents):
        if container.get("args") == ["signal"]:
            place = f"{where} {document['kind']}/{document['metadata']['name']}"
            check("VIGIE_TRUSTED_PROXIES" in environment(container, named, place), place, "is behind an Ingress and trusts no proxy")


def check_predictors(where, documents):
    """KServe's contract with custom predictors."""
    for document in documents:
        if document["kind"] != "InferenceService":
            continue
        place = f"{where} InferenceService/{document['metadata']['name']}"
        mode = document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
        check(mode == "Standard", place, f"its mode is {mode}: Knative carries no UDP")
        containers = document["spec"]["predictor"]["containers"]
        names = [container["name"] for container in containers]
        check(names == ["kserve-container"], place, f"its containers are {names}")
        for container in containers:
            variables = environment(container, {}, place)
            ports = [port["containerPort"] for port in container["ports"]]
            check([str(port) for port in ports] == [variables["PORT"]], place, f"PORT is {variables['PORT']}, it listens on {ports}")
            check(container["image"] != "vigie-worker", place, "no overlay says where its image is")
            path = container["readinessProbe"]["httpGet"]["path"]
            check(path == "/v2/health/ready", place, f"its readiness is {path}")


def check_metrics(where, documents, program):
    text = json.dumps([d for d in documents if d["kind"] in FOREIGN | {"HorizontalPodAutoscaler", "ConfigMap"}])
    expressions = re.findall(r"\b((?:vigie|process|kube)_[a-z0-9_]+)\s*(?=[{\[)(\\\"' ])", text)
    for name in sorted(set(expressions)):
        check(program.knows_metric(name), where, f"vigie exports no {name}")


def quantity(text):
    number, unit = re.fullmatch(r"([\d.]+)(m|Mi|Gi)?", str(text)).groups()
    return float(number) * {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, None: 1}[unit]


def check_smallest(where, documents):
    """The minikube overlay fits into 2 CPUs and 2 GiB."""
    cpu = memory = 0
    for document in documents:
        template = pod_spec(document)
        for container in template["spec"]["containers"] if template else []:
            count = document["spec"].get("replicas", 1)
            cpu += count * quantity(container["resources"]["requests"]["cpu"])
            memory += count * quantity(container["resources"]["requests"]["memory"])
    print(f"{where} requests {cpu:.2f} CPU and {memory / 2**20:.0f} MiB")
    check(cpu <= 2 and memory <= 2 * 2**30, where, "requests more than 2 CPUs or 2 GiB")


def main():
    binary = sys.argv[1]
    kubectl = os.environ.get("KUBECTL", "kubectl")
    program = Program(binary)
    with tempfile.TemporaryDirectory() as scratch:
        k8s = copy_with_secrets(Path(scratch))
        folders = sorted((k8s / "overlays").iterdir()) + sorted(
            folder for folder in (k8s / "rollouts").iterdir() if folder.is_dir() and not folder.name.startswith("second"))
        for folder in folders:
            where = str(folder.relative_to(k8s))
            documents = render(folder, kubectl)
            check(documents, where, "renders to nothing")
            check_schema(where, documents)
            check_pods(where, documents, program)
            check_selectors(where, documents, program)
            check_flows(where, documents)
            check_predictors(where, documents)
            check_proxies(where, documents)
            if folder.parent.name == "overlays":
                check_images(where, documents, images_of(folder))
            check_metrics(where, documents, program)
            if folder.name == "minikube":
                check_smallest(where, documents)
            print(f"{where}: {len(documents)} objects")
    for problem in problems:
        print(f"PROBLEM {problem}", file=sys.stderr)
    print(f"{len(folders)} renderings against Kubernetes {', '.join(VERSIONS)}: {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
