#!/usr/bin/env python3
"""How long a worker takes from its start to ready, with models in the page cache; and how much processor time. Arguments: the binary, how often."""

import os
import statistics
import subprocess
import sys
import time
import urllib.request


def start(binary):
    """Seconds to the first 200 of /readyz, and seconds of CPU until then."""
    began = time.monotonic()
    command = [binary, "worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0"]
    environment = {**os.environ, "VIGIE_CLUSTER_TOKEN": os.urandom(16).hex()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as worker:
        try:
            address = worker.stdout.readline().rsplit(" ", 1)[1].strip()
            with urllib.request.urlopen(f"{address}/readyz", timeout=10) as response:
                assert response.status == 200
            took = time.monotonic() - began
            with open(f"/proc/{worker.pid}/stat") as stat:
                fields = stat.read().rsplit(") ", 1)[1].split()
        finally:
            worker.kill()
    return took, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    binary, times = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    took, cpu = zip(*(start(binary) for _ in range(times)))
    print(f"{times} starts: ready after {statistics.median(took):.2f} s (worst {max(took):.2f}), {statistics.median(cpu):.2f} s of CPU; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
