#!/usr/bin/env python3
"""A recognition service as people write it with GStreamer: the second peer that `benches/peers/run` compares vigie with.

webrtcbin takes the video in, an appsink hands the pictures to Python, an appsrc takes the annotated ones back. As in most such
programs a queue that leaks stands before the appsink, so that recognition sees the newest picture and the returned video has as many
pictures as were recognised. It speaks vigie's signalling, so that `vigie load` can visit it. One engine for all sessions, one thread a run.

    webrtcbin_server.py --models .vigie/models --port 9001 [--lossless] [--video-only]
"""

import argparse
import asyncio
import datetime
import json
import re
import threading
import time

import cv2
import gi
import numpy as np
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

gi.require_version("Gst", "1.0")
gi.require_version("GstRtp", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("Nice", "0.1")
from gi.repository import Gst, GstRtp, GstSdp, GstWebRTC, Nice  # noqa: E402

from recognition import draw, load, report, welcome  # noqa: E402

RTP_CLOCK = 90_000
# The sender's timestamps of pictures that are on their way through the decoder.
REMEMBERED = 256
# The returned track's source.
SSRC = 0x5EED
# GStreamer 1.22 gives its ICE agent away without a reference for whoever asks.
KEPT = []


def certificate():
    """A key and its certificate on the curve that every browser takes: GStreamer's own are RSA, which `vigie load` refuses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    signed = (x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
              .sign(key, hashes.SHA256()))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (signed.public_bytes(serialization.Encoding.PEM) + private).decode()


class Session:
    """One visitor: a pipeline around a webrtcbin."""

    def __init__(self, server, loop):
        self.server, self.loop, self.seq, self.channel = server, loop, 0, None
        self.timestamps = {}
        self.pipeline = Gst.Pipeline.new()
        self.webrtc = Gst.ElementFactory.make("webrtcbin")
        self.webrtc.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.pipeline.connect("deep-element-added", self.on_element)
        self.pipeline.add(self.webrtc)
        # Of itself it would look for addresses on the network only.
        loopback = Nice.Address.new()
        loopback.set_from_string("127.0.0.1")
        agent = self.webrtc.get_property("ice-agent")
        KEPT.append(agent)
        agent.get_property("agent").add_local_address(loopback)
        self.webrtc.connect("pad-added", self.on_pad)
        self.webrtc.connect("on-data-channel", self.on_channel)
        self.pipeline.set_state(Gst.State.PLAYING)

    def on_element(self, _pipeline, _bin, element):
        """Has the transport begin anew with our certificate: webrtcbin has no property for it."""
        name = element.get_factory().get_name() if element.get_factory() else ""
        if name == "dtlssrtpdec":
            element.set_property("pem", self.server.certificate)
        if name in ("dtlssrtpdec", "dtlssrtpenc"):
            element.set_property("connection-id", element.get_property("connection-id") + "-own")

    async def answer(self, offer):
        _, sdp = GstSdp.SDPMessage.new_from_text(offer)
        payload = next(line.split()[0][9:] for line in offer.splitlines() if line.lower().endswith("vp8/90000"))
        description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.OFFER, sdp)
        await self.call("set-remote-description", description)
        self.add_return(payload)
        created = await self.call("create-answer", None)
        await self.call("set-local-description", created.get_value("answer"))
        while self.webrtc.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            await asyncio.sleep(0.005)
        answer = self.webrtc.get_property("local-description").sdp.as_text()
        # webrtcbin takes the fingerprint of all that is in the PEM text, the key too.
        own = x509.load_pem_x509_certificate(self.server.certificate.encode()).fingerprint(hashes.SHA256()).hex(":").upper()
        answer = re.sub(r"a=fingerprint:\S+ [0-9A-F:]+", f"a=fingerprint:sha-256 {own}", answer)
        # Without caps from the payloader yet, it says nothing of the returned track's source.
        return answer.replace("a=sendrecv\r\n", f"a=sendrecv\r\na=ssrc:{SSRC} cname:peer\r\n", 1)

    def call(self, action, argument):
        future = self.loop.create_future()
        done = lambda promise: self.loop.call_soon_threadsafe(future.set_result, promise.get_reply())
        self.webrtc.emit(action, argument, Gst.Promise.new_with_change_func(done))
        return future

    def add_return(self, payload):
        """From the annotated pictures to webrtcbin."""
        part = Gst.parse_bin_from_description(
            "appsrc name=source is-live=true format=time block=false max-buffers=2 leaky-type=downstream ! "
            "video/x-raw,format=RGB,width=640,height=480,framerate=30/1 ! videoconvert ! video/x-raw,format=I420 ! "
            "vp8enc deadline=1 cpu-used=8 target-bitrate=1200000 keyframe-max-dist=300 threads=1 lag-in-frames=0 ! "
            f"rtpvp8pay pt={payload} ssrc={SSRC} timestamp-offset=0 picture-id-mode=15-bit ! "
            f"capsfilter caps=application/x-rtp,media=video,encoding-name=VP8,payload={payload},clock-rate=90000", True)
        self.source = part.get_by_name("source")
        self.pipeline.add(part)
        part.sync_state_with_parent()
        part.get_static_pad("src").link(self.webrtc.request_pad_simple("sink_%u"))

    def on_pad(self, _, pad):
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        leak = "" if self.server.lossless else "leaky=downstream"
        part = Gst.parse_bin_from_description(
            f"rtpvp8depay name=depay ! vp8dec threads=1 ! queue max-size-buffers=1 max-size-time=0 max-size-bytes=0 {leak} ! "
            "videoconvert ! video/x-raw,format=RGB ! appsink name=sink emit-signals=true sync=false max-buffers=1", True)
        part.get_by_name("depay").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, self.note_timestamp)
        part.get_by_name("sink").connect("new-sample", self.on_sample)
        self.pipeline.add(part)
        part.sync_state_with_parent()
        pad.link(part.get_static_pad("sink"))

    def on_channel(self, _, channel):
        if channel.get_property("label") == "results":
            self.channel = channel

    def note_timestamp(self, _, info):
        buffer = info.get_buffer()
        mapped, rtp = GstRtp.RTPBuffer.map(buffer, Gst.MapFlags.READ)
        if mapped:
            self.timestamps[buffer.pts] = rtp.get_timestamp()
            rtp.unmap()
            while len(self.timestamps) > REMEMBERED:
                self.timestamps.pop(next(iter(self.timestamps)))
        return Gst.PadProbeReturn.OK

    def on_sample(self, sink):
        sample = sink.emit("pull-sample")
        buffer, structure = sample.get_buffer(), sample.get_caps().get_structure(0)
        width, height = structure.get_value("width"), structure.get_value("height")
        timestamp = self.timestamps.get(buffer.pts)
        if timestamp is None:
            return Gst.FlowReturn.OK
        began = time.perf_counter()
        rgb = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(height, width, 3).copy()
        found, _ = self.server.recognise(rgb)
        draw(rgb, found)
        annotated = Gst.Buffer.new_wrapped(rgb.tobytes())
        # The payloader comes back to the sender's timestamp from this, rounding down.
        annotated.pts = -(-timestamp * Gst.SECOND // RTP_CLOCK)
        annotated.duration = Gst.SECOND // 30
        self.source.emit("push-buffer", annotated)
        if self.channel is not None:
            ms = (time.perf_counter() - began) * 1000
            if self.seq % self.server.models.report_every == 0:
                self.channel.emit("send-string", report(self.seq, timestamp, width, height, found, ms))
            self.seq += 1
        return Gst.FlowReturn.OK

    def close(self):
        self.pipeline.set_state(Gst.State.NULL)


class Server:
    def __init__(self, options):
        self.models, self.lossless, self.certificate = load(options), options.lossless, certificate()
        self.turns = threading.BoundedSemaphore(options.threads)

    def recognise(self, rgb):
        with self.turns:
            return self.models.recognise(rgb)

    async def session(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(welcome())
        session = Session(self, asyncio.get_running_loop())
        try:
            async for message in socket:
                said = json.loads(message.data) if message.type == web.WSMsgType.TEXT else {}
                if said.get("type") == "offer":
                    await socket.send_json({"type": "answer", "sdp": await session.answer(said["sdp"])})
                elif said.get("type") == "bye":
                    break
        finally:
            await asyncio.to_thread(session.close)
        return socket


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=".vigie/models")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lossless", action="store_true", help="recognise every picture, however late")
    parser.add_argument("--video-only", action="store_true", help="run no model; draw the same box into every picture")
    options = parser.parse_args()
    Gst.init(None)
    cv2.setNumThreads(1)
    app = web.Application()
    app.router.add_get("/api/session", Server(options).session)
    app.router.add_get("/readyz", lambda _: web.Response(text="ready\n"))
    web.run_app(app, host="127.0.0.1", port=options.port, print=lambda *_: print(f"peer is ready: http://127.0.0.1:{options.port}", flush=True))


if __name__ == "__main__":
    main()
