"""WHIP with FFmpeg's own muxer (FFmpeg 8, as PyAV brings it)."""

import asyncio
import datetime
import pathlib
import tempfile
import threading
import time
import unittest

import av
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clients import Portrait, eventually, front, worker

RATE = 15


def certificate(folder):
    """One on P-256, which WebRTC asks for (RFC 8827 §6.5); FFmpeg with GnuTLS would make one on P-224."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ffmpeg")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
    files = pathlib.Path(folder, "ffmpeg.crt"), pathlib.Path(folder, "ffmpeg.key")
    files[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return {"cert_file": str(files[0]), "key_file": str(files[1])}


def push(address, options, stop):
    """ffmpeg -re -loop 1 -i astronaut.jpg -c:v libx264 … -f whip http://…/whip"""
    picture = Portrait().picture
    with av.open(f"http://{address}/whip", "w", format="whip", options=options) as output:
        coding = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "g": str(RATE), "bf": "0"}
        stream = output.add_stream("libx264", rate=RATE, options=coding)
        stream.width = stream.height = 512
        stream.pix_fmt = "yuv420p"
        began, index = time.monotonic(), 0
        while not stop.is_set():
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = index
            output.mux(stream.encode(frame))
            index += 1
            time.sleep(max(0, began + index / RATE - time.monotonic()))


class FFmpeg(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        asyncio.get_running_loop().set_debug(False)

    async def test_ffmpeg_publishes(self):
        with worker() as w, front(w) as f, tempfile.TemporaryDirectory() as folder:
            stop = threading.Event()
            pushing = asyncio.create_task(asyncio.to_thread(push, f.address, certificate(folder), stop))
            try:
                total = 'vigie_frames_total{stage="total"}'
                await eventually("pictures are recognised", lambda: pushing.done() or w.metric(total) > 5)
            finally:
                stop.set()
                await pushing
            self.assertEqual(w.metric("vigie_sessions_total"), 1)
            await eventually("its DELETE ends the session", lambda: w.metric("vigie_sessions_active") == 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
