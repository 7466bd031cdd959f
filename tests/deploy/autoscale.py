#!/usr/bin/env python3
"""Autoscaling with real parts: `vigie worker` processes, a `vigie signal` before them, a Prometheus that scrapes them, the queries of
the manifests, Kubernetes' rules (hpa.py), and `vigie load` as the people who come and go. Only the cluster is played.

With --speed above 1 time runs faster: every window and period of the manifest is divided by it, but starting a worker and moving a
session take what they take. Sessions that are lost fail the run. All workers stand on one machine, so they admit by count: their
measured headroom would be one and the same. Writes autoscaling.csv, .json and .svg to the folder given. Needs PyYAML and Debian's
prometheus; from the models and ONNX Runtime of this checkout, or where VIGIE_MODELS and VIGIE_ORT_LIBRARY say.
"""

import argparse
import csv
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

from hpa import Autoscaler, wanted

ROOT = Path(__file__).resolve().parents[2]
SYNC_SECONDS = 15  # how often the autoscaler looks (--horizontal-pod-autoscaler-sync-period)
MOST_WORKERS = 4
STAYERS = 5


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def manifests():
    """The autoscaler of the workers, and the adapter's query for its metric."""
    folder = ROOT / "k8s/components/autoscaling/hpa"
    hpa = next(d for d in yaml.safe_load_all((folder / "hpa.yaml").read_text()) if d["metadata"]["name"] == "worker")
    rule = yaml.safe_load((folder / "prometheus-adapter-values.yaml").read_text())["rules"]["custom"][0]
    metric = next(m["pods"] for m in hpa["spec"]["metrics"] if m["type"] == "Pods")
    target = metric["target"]["averageValue"]
    target = float(target[:-1]) / 1000 if target.endswith("m") else float(target)
    return hpa["spec"], rule["metricsQuery"], metric["metric"]["name"], target


class Processes:
    """What was started, ended by its own id."""

    def __init__(self, folder):
        self.folder, self.all = folder, []

    def start(self, name, command, **environment):
        log = open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
                                   env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **environment})
        self.all.append(process)
        return process

    def end(self):
        for process in self.all:
            if process.poll() is None:
                process.kill()
            process.wait()


def until(what, seconds, true):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.1)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


class Cluster:
    def __init__(self, binary, folder, sessions_per_worker, speed):
        self.binary, self.folder, self.speed = binary, folder, speed
        self.processes = Processes(folder)
        self.token = secrets.token_hex(16)
        self.per_worker = sessions_per_worker
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(MOST_WORKERS)]
        self.workers = {}  # address -> process
        self.leaving = []
        self.targets = folder / "targets.json"
        self.front = f"127.0.0.1:{free_port()}"
        self.prometheus = f"127.0.0.1:{free_port()}"

    def start(self):
        self.write_targets()
        scrape = (ROOT / "k8s/components/monitoring/scrape.yaml").read_text()
        seconds = int(re.search(r"interval: (\d+)s", scrape)[1])
        interval = f"{max(1000, round(seconds * 1000 / self.speed))}ms"
        config = {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [
            {"job_name": "worker", "file_sd_configs": [{"files": [str(self.targets)], "refresh_interval": "1s"}]}]}
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.processes.start("prometheus", ["prometheus", f"--config.file={self.folder}/prometheus.yml",
                                            f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address={self.prometheus}"])
        self.processes.start("front", [self.binary, "signal", "--listen", self.front, "--workers", ",".join(self.addresses)],
                             VIGIE_CLUSTER_TOKEN=self.token)
        until("prometheus is ready", 30, lambda: answers(f"http://{self.prometheus}/-/ready"))

    def write_targets(self):
        new = self.targets.with_suffix(".part")
        groups = [{"targets": [address], "labels": {"pod": f"worker-{i}", "namespace": "vigie"}}
                  for i, address in enumerate(self.addresses) if address in self.workers]
        new.write_text(json.dumps(groups))
        new.rename(self.targets)

    def add(self):
        address = next(a for a in self.addresses if a not in self.workers and a not in [left for left, _ in self.leaving])
        index = self.addresses.index(address)
        self.workers[address] = self.processes.start(
            f"worker-{index}-{time.monotonic():.0f}", [self.binary, "worker", "--control", address, "--name", f"worker-{index}",
                                  "--media", "127.0.0.1:0", "--lanes", "1", "--admit", "count", "--max-sessions", str(self.per_worker), "--drain-seconds", "30"],
            VIGIE_CLUSTER_TOKEN=self.token)
        until(f"worker {index} is ready", 60, lambda: answers(f"http://{address}/readyz"))
        self.write_targets()

    def sessions(self, address):
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as response:
                found = re.search(r"^vigie_sessions_active (\d+)", response.read().decode(), re.M)
                return int(found[1]) if found else 0
        except OSError:
            return 0

    def remove(self):
        """The idlest goes first, as controller.kubernetes.io/pod-deletion-cost has it."""
        address = min(self.workers, key=self.sessions)
        process = self.workers.pop(address)
        self.write_targets()
        process.send_signal(signal.SIGTERM)
        self.leaving.append((address, process))

    def reap(self):
        for address, process in self.leaving:
            if process.poll() is not None and process.returncode != 0:
                raise RuntimeError(f"the worker at {address} ended with {process.returncode}")
        self.leaving = [(address, process) for address, process in self.leaving if process.poll() is None]

    def measure(self, query, name):
        # What the adapter makes of its template for the pods of one namespace.
        full = query.replace("<<.Series>>", name).replace("<<.LabelMatchers>>", 'namespace="vigie"')
        window = re.search(r"\[(\d+)s\]", full)
        if window:
            full = full.replace(window[0], f"[{max(2, round(int(window[1]) / self.speed))}s]")
        url = f"http://{self.prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": full})
        with urllib.request.urlopen(url, timeout=5) as response:
            result = json.load(response)["data"]["result"]
        return [float(sample["value"][1]) for sample in result]


def plot(rows, path):
    """Sessions, capacity and load over time, as an SVG."""
    width, height, left, bottom, right = 760, 300, 46, 30, 24
    end, top = rows[-1]["seconds"], max(max(r["sessions"], r["capacity"]) for r in rows) * 1.1
    x = lambda s: left + (width - left - right) * s / end
    y = lambda v: height - bottom - (height - bottom - 26) * v / top
    steps = lambda key: " ".join(f"{x(r['seconds']):.1f},{y(r[key]):.1f}" for r in rows)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for value in range(0, int(top) + 1, max(1, int(top / 6))):
        parts.append(f'<path d="M{left} {y(value):.1f}H{width - right}" stroke="#e5e7eb"/><text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#6b7280">{value}</text>')
    for second in range(0, int(end) + 1, next((step for step in (10, 30, 60, 120, 300) if end / step < 9), 600)):
        parts.append(f'<text x="{x(second):.1f}" y="{height - 10}" text-anchor="middle" fill="#6b7280">{second} s</text>')
    parts.append(f'<polyline points="{steps("capacity")}" fill="none" stroke="#9ca3af" stroke-width="2" stroke-dasharray="5 3"/>')
    parts.append(f'<polyline points="{steps("sessions")}" fill="none" stroke="#2563eb" stroke-width="2.5"/>')
    parts.append(f'<text x="{left}" y="16" fill="#2563eb">sessions</text><text x="{left + 70}" y="16" fill="#6b7280">places on ready workers (dashed)</text></svg>')
    path.write_text("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--speed", type=float, default=20, help="how many times faster than in the manifest")
    parser.add_argument("--per-worker", type=int, default=8, help="sessions of one worker")
    parser.add_argument("--most", type=int, default=24, help="sessions at the height")
    parser.add_argument("--high", type=int, default=60, help="seconds that most of them stay")
    options = parser.parse_args()
    binary, output = options.binary.resolve(), options.output
    output.mkdir(parents=True, exist_ok=True)

    spec, query, name, target = manifests()
    spec = {**spec, "minReplicas": 1, "maxReplicas": MOST_WORKERS}
    scaler = Autoscaler(spec, options.speed)
    rows, began = [], None
    with tempfile.TemporaryDirectory() as scratch:
        cluster = Cluster(binary, Path(scratch), options.per_worker, options.speed)
        try:
            cluster.start()
            cluster.add()
            until("the front is ready", 30, lambda: answers(f"http://{cluster.front}/readyz"))
            began = time.monotonic()
            # Some stay until the workers have gone again: theirs are the sessions that have to move.
            down = spec["behavior"]["scaleDown"]
            gone = (down["stabilizationWindowSeconds"] + MOST_WORKERS * down["policies"][0]["periodSeconds"]) / options.speed
            stay = round(options.high + gone + 45)
            # They come while workers do, and so stand on several.
            slowly = STAYERS / (10 + 90 / options.speed)
            loads = [load(cluster, scratch, "few", STAYERS, slowly, stay),
                     load(cluster, scratch, "many", options.most - STAYERS, 2, options.high)]
            idle_since = None
            while True:
                now = time.monotonic() - began
                cluster.reap()
                ratios = cluster.measure(query, name)
                average = sum(ratios) / len(ratios) if ratios else target
                current = len(cluster.workers)
                count = scaler.decide(now, current, wanted(current, average, target))
                for _ in range(current, count):
                    cluster.add()
                if count < current:
                    cluster.remove()
                everywhere = list(cluster.workers) + [address for address, _ in cluster.leaving]
                rows.append({"seconds": round(now, 1), "workers": count, "load_ratio": round(average, 3),
                             "sessions": sum(cluster.sessions(address) for address in everywhere), "capacity": count * options.per_worker})
                print(rows[-1], flush=True)
                finished = all(process.poll() is not None for process in loads)
                if finished and count == 1:
                    idle_since = idle_since or now
                    if now - idle_since > 5:
                        break
                if now > stay + 240:
                    raise TimeoutError("the workers did not go back to one")
                time.sleep(SYNC_SECONDS / options.speed)
            reports = [json.loads(Path(scratch, f"load-{name}.json").read_text()) for name in ("few", "many")]
        except BaseException:
            for log in sorted(Path(scratch).glob("*.log")):
                print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-8:], sep="\n", file=sys.stderr)
            raise
        finally:
            cluster.processes.end()
    finish(rows, reports, output, options)


def load(cluster, folder, name, sessions, ramp, seconds):
    return cluster.processes.start(f"load-{name}", [
        cluster.binary, "load", f"http://{cluster.front}", "--sessions", str(sessions), "--ramp", str(ramp), "--seconds", str(seconds),
        "--size", "320x240", "--rate", "10", "--max-rate", "1", "--tasks", "faces", "--json", f"{folder}/load-{name}.json"])


def finish(rows, reports, output, options):
    with open(output / "autoscaling.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, output / "autoscaling.svg")
    first = lambda true: next((row["seconds"] for row in rows if true(row)), None)
    last_of_several = max(index for index, row in enumerate(rows) if row["workers"] > 1)
    sessions = [report["sessions"] for report in reports]
    figures = {
        "speed": options.speed,
        "sessions_wanted": options.most,
        "places_per_worker": options.per_worker,
        "most_workers": max(row["workers"] for row in rows),
        "seconds_from_load_to_capacity": first(lambda row: row["capacity"] >= options.most),
        "seconds_until_everybody_is_in": first(lambda row: row["sessions"] >= options.most),
        "seconds_until_one_worker_again": rows[last_of_several + 1]["seconds"],
        "joined": sum(one["joined"] for one in sessions),
        "moved": sum(one["migrated"] for one in sessions),
        "refused_tries": sum(sum(one["failed_tries"].values()) for one in sessions),
        "lost": {reason: count for one in sessions for reason, count in one["lost"].items()},
        "longest_silence_ms": max(visitor["longest_silence_ms"] for report in reports for visitor in report["visitors"]),
    }
    (output / "autoscaling.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    assert figures["most_workers"] == MOST_WORKERS, "it did not go up to the most"
    assert figures["joined"] == options.most, "not everybody got in"
    assert figures["moved"] > 0, "no session had to move, so nothing is shown"
    assert not figures["lost"], figures["lost"]


if __name__ == "__main__":
    main()
