"""What the client tests share: vigie's processes, HTTP, and aiortc as publisher and as viewer."""

import asyncio
import fractions
import http.client
import json
import os
import pathlib
import subprocess
import time
import urllib.parse

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("VIGIE_BINARY", str(ROOT / "target/release/vigie"))
TOKEN = "the-token-of-the-tests-own-cluster"
LIMIT_S = 30


class Process:
    """A running vigie, ended with the test."""

    def __init__(self, *arguments, environment={}):
        environment = dict(os.environ, VIGIE_CLUSTER_TOKEN=TOKEN) | environment
        self.child = subprocess.Popen(
            [BINARY, *arguments], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.line = self.child.stdout.readline().strip()
        assert "ready: http://" in self.line, f"{arguments}: {self.line!r}; are the models there?"
        self.address = self.line.rsplit("/", 1)[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()

    def metric(self, name):
        text = request(self.address, "GET", "/metrics").body.decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + " ", name + "{")))


def worker(*arguments):
    return Process("worker", "--control", "127.0.0.1:0", "--media", "0.0.0.0:0", "--lanes", "1", "--name", "w1", *arguments)


def front(of, listen="127.0.0.1:0"):
    return Process("signal", "--listen", listen, "--workers", of.address)


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def code(self):
        return json.loads(self.body)["error"]["code"]


def request(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
    try:
        connection.request(method, path, body, headers or {})
        return Reply(connection.getresponse())
    finally:
        connection.close()


async def ask(*arguments, **keywords):
    return await asyncio.to_thread(request, *arguments, **keywords)


async def eventually(what, holds, limit_s=LIMIT_S):
    deadline = time.monotonic() + limit_s
    while not (found := await asyncio.to_thread(holds)):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        await asyncio.sleep(0.1)
    return found


class Portrait(VideoStreamTrack):
    """One still picture, over and over, as a camera on a tripod sees it."""

    def __init__(self):
        super().__init__()
        with av.open(str(ROOT / "tests/data/pictures/astronaut.jpg")) as file:
            self.picture = next(file.decode(video=0)).to_ndarray(width=512, height=512, format="yuv420p")

    async def recv(self):
        timestamp, base = await self.next_timestamp()
        frame = av.VideoFrame.from_ndarray(self.picture, format="yuv420p")
        frame.pts, frame.time_base = timestamp, fractions.Fraction(base)
        return frame


class Client:
    """An aiortc peer whose signalling is HTTP, as WHIP and WHEP have it."""

    def __init__(self, address):
        self.address = address
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    async def offer(self, path, patient=False):
        if self.peer.localDescription is None:
            await self.peer.setLocalDescription(await self.peer.createOffer())
        headers = {"Content-Type": "application/sdp"}
        self.created = await ask(self.address, "POST", path, self.peer.localDescription.sdp, headers)
        if patient and self.created.status == 409:
            assert int(self.created.headers["Retry-After"]) > 0 and self.created.code == "not_live"
            await asyncio.sleep(0.2)
            return await self.offer(path, patient)
        assert self.created.status == 201, (self.created.status, self.created.body)
        self.resource = urllib.parse.urljoin(path, self.created.headers["Location"])
        answer = RTCSessionDescription(self.created.body.decode(), "answer")
        await self.peer.setRemoteDescription(answer)

    async def hang_up(self, address=None):
        ended = await ask(address or self.address, "DELETE", self.resource)
        await self.peer.close()
        return ended


class Publisher(Client):
    async def publish(self, codec="video/VP8", query=""):
        transceiver = self.peer.addTransceiver(Portrait(), direction="sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([c for c in codecs if c.mimeType in (codec, "video/rtx")])
        await self.offer(f"/whip{query}")
        self.watch = self.created.headers["Vigie-Watch"]
        return self


class Viewer(Client):
    def __init__(self, address):
        super().__init__(address)
        self.reports, self.frames = [], []
        self.peer.addTransceiver("video", direction="recvonly")
        channel = self.peer.createDataChannel("results", ordered=False, maxRetransmits=0)
        channel.on("message", lambda text: self.reports.append(json.loads(text)))
        self.peer.on("track", lambda track: asyncio.ensure_future(self._read(track)))

    async def _read(self, track):
        try:
            while True:
                self.frames.append(await track.recv())
                del self.frames[:-5]
        except Exception:  # aiortc's way to say that the track has ended
            return

    async def watch(self, path):
        await self.offer(path)
        return self

    async def watch_when_live(self, path):
        """Before the publisher's video has come there is nothing to watch."""
        await self.offer(path, patient=True)
        await eventually("reports come", lambda: len(self.reports) > 0)
        return self
