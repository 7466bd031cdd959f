#!/usr/bin/env python3
"""A recognition service as people write it with aiortc: the peer that `benches/peers/run` compares vigie with.

The video is transformed in a track's `recv`, as aiortc's own server example does it, with ONNX Runtime on the same model files; with
--executor the models run in a thread pool, as its users are advised to do when the event loop stalls. It speaks vigie's signalling, so
that `vigie load` can visit it. What is faster than the example: the engines have one thread each and do not spin.

    aiortc_server.py --models .vigie/models --port 9000 [--executor] [--output annotated|overlay] [--video-only]
"""

import argparse
import asyncio
import concurrent.futures
import json
import time

import cv2
from aiohttp import web
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription, rtcrtpreceiver
from av import VideoFrame

from recognition import draw, load, report, welcome

# Keep the sender's own timestamps, so that a report can be matched with the frame that it is about.
rtcrtpreceiver.TimestampMapper.map = lambda self, timestamp: timestamp

class TransformTrack(MediaStreamTrack):
    """The video with boxes; every frame is recognised, in the order in which it came."""

    kind = "video"

    def __init__(self, track, server, channels):
        super().__init__()
        self.track, self.server, self.channels, self.seq = track, server, channels, 0

    async def recv(self):
        frame = await self.track.recv()
        began = time.perf_counter()
        work = lambda: self.transform(frame)
        if self.server.pool:
            found, genders, annotated = await asyncio.get_running_loop().run_in_executor(self.server.pool, work)
        else:
            found, genders, annotated = work()
        self.report(frame, found, (time.perf_counter() - began) * 1000)
        return annotated

    def transform(self, frame):
        rgb = frame.to_ndarray(format="rgb24")
        found, genders = self.server.models.recognise(rgb)
        if not self.server.annotates:
            return found, genders, frame
        draw(rgb, found)
        annotated = VideoFrame.from_ndarray(rgb, format="rgb24")
        annotated.pts, annotated.time_base = frame.pts, frame.time_base
        return found, genders, annotated

    def report(self, frame, found, ms):
        channel = self.channels.get("results")
        if channel is None or channel.readyState != "open":
            return
        if self.seq % self.server.models.report_every == 0:
            channel.send(report(self.seq, frame.pts % 2**32, frame.width, frame.height, found, ms))
        self.seq += 1


class Server:
    def __init__(self, options):
        self.models = load(options)
        self.pool = concurrent.futures.ThreadPoolExecutor(options.threads) if options.executor else None
        self.annotates = options.output == "annotated"

    async def session(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(welcome())
        peer, channels, sink = RTCPeerConnection(), {}, []

        @peer.on("datachannel")
        def adopt(channel):
            channels[channel.label] = channel

        @peer.on("track")
        def transform(track):
            transformed = TransformTrack(track, self, channels)
            peer.addTrack(transformed)

        async for message in socket:
            if message.type != web.WSMsgType.TEXT:
                continue
            said = json.loads(message.data)
            if said["type"] == "offer":
                await peer.setRemoteDescription(RTCSessionDescription(said["sdp"], "offer"))
                await peer.setLocalDescription(await peer.createAnswer())
                await socket.send_json({"type": "answer", "sdp": peer.localDescription.sdp})
            elif said["type"] == "bye":
                break
        await peer.close()
        return socket


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=".vigie/models")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--executor", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", choices=["annotated", "overlay"], default="annotated")
    parser.add_argument("--video-only", action="store_true", help="run no model; draw the same box into every picture")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    app = web.Application()
    app.router.add_get("/api/session", Server(options).session)
    app.router.add_get("/readyz", lambda _: web.Response(text="ready\n"))
    web.run_app(app, host="127.0.0.1", port=options.port, print=lambda *_: print(f"peer is ready: http://127.0.0.1:{options.port}", flush=True))


if __name__ == "__main__":
    main()
