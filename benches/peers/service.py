"""Services that are measured: started on a free port, watched by the kernel's figures, ended."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "benches" / "peers"
DEBIAN_PYTHON = pathlib.Path("/usr/bin/python3")

# Those whose sessions are also measured without recognition: a thread pool for models would be idle.
VIDEO_ONLY = ("vigie", "aiortc", "webrtcbin")

SERVERS = {
    "vigie": "vigie serve",
    "aiortc": "aiortc, models in the event loop",
    "aiortc-executor": "aiortc, models in a thread pool",
    "webrtcbin": "GStreamer webrtcbin, newest picture",
}


def environment():
    """The Python of a virtual environment with the pinned packages; Debian's, whose GStreamer bindings it sees."""
    folder = ROOT / "target" / "peers" / "venv"
    python = folder / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    mark = folder / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        base = DEBIAN_PYTHON if DEBIAN_PYTHON.exists() else sys.executable
        subprocess.run([base, "-m", "venv", "--clear", "--system-site-packages", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--ignore-installed", "-r", HERE / "requirements.txt"], check=True)
        mark.write_text(wanted)
    return python


def has_gstreamer():
    """Whether the elements and bindings are there that the webrtcbin server needs."""
    code = ("import gi; [gi.require_version(n, '1.0') for n in ('Gst', 'GstRtp', 'GstSdp', 'GstWebRTC')]; gi.require_version('Nice', '0.1');"
            "from gi.repository import Gst; Gst.init(None);"
            "assert all(map(Gst.ElementFactory.find, ('webrtcbin', 'nicesrc', 'vp8dec', 'vp8enc', 'rtpvp8pay', 'dtlsenc', 'srtpenc')))")
    return subprocess.run([environment(), "-c", code], capture_output=True).returncode == 0


class Server:
    """A running service, and what it uses."""

    def __init__(self, name, options, *flags):
        """`flags` go to the service: for vigie in the place of admission by count."""
        self.log, self.is_vigie = tempfile.TemporaryFile("w+"), name == "vigie"
        port = free_port()
        if name == "vigie":
            command = [options.vigie, "serve", "--listen", f"127.0.0.1:{port}", "--media", "127.0.0.1:0",
                       "--max-sessions", "256", "--log", "error", *(flags or ["--admit", "count"])]
        else:
            script = "webrtcbin_server.py" if name == "webrtcbin" else "aiortc_server.py"
            command = [environment(), HERE / script, "--models", ROOT / ".vigie" / "models", "--port", str(port)]
            command += ["--executor"] if name.endswith("executor") else []
            command += flags
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if "is ready" not in line:
            self.log.seek(0)
            sys.exit(f"{name} did not start: {line}{self.log.read()}")
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def metrics(self, *names):
        """Samples of vigie's metrics whose names begin so."""
        with urllib.request.urlopen(self.url + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(names)}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def load(server, options, *flags):
    """What `vigie load` says of a visit, and its standard error; None when nobody could join."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [options.vigie, "load", server.url, "--json", file.name, *flags]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        text = pathlib.Path(file.name).read_text()
    if not text:
        print("   ", ran.stderr.strip(), file=sys.stderr)
    return json.loads(text) if text else None


def slope(points):
    """Least squares: change of y for each x."""
    if len(points) < 3:
        return 0.0
    x0, y0 = (sum(values) / len(points) for values in zip(*points))
    spread = sum((x - x0) ** 2 for x, _ in points)
    return sum((x - x0) * (y - y0) for x, y in points) / spread
