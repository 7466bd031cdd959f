#!/usr/bin/env python3
"""Sends a video file or a camera to vigie by WHIP and prints what is recognised, as JSON lines.

pip install aiortc; python watch.py http://127.0.0.1:8080 clip.mp4 (or /dev/video0). It ends with the file, or after as many reports as a third argument says.
"""

import asyncio
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer


def post(url, sdp):
    request = urllib.request.Request(url, sdp.encode(), {"Content-Type": "application/sdp"}, method="POST")
    if token := os.environ.get("VIGIE_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode(), response.headers


async def connect(peer, url):
    """Offers, and takes the answer; repeats while there is nothing to watch yet."""
    await peer.setLocalDescription(await peer.createOffer())
    while True:
        try:
            answer, headers = await asyncio.to_thread(post, url, peer.localDescription.sdp)
            break
        except urllib.error.HTTPError as refusal:
            if refusal.code not in (409, 503):
                raise
            await asyncio.sleep(int(refusal.headers.get("Retry-After", 1)))
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return headers


def hang_up(url):
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()


async def main(service, source, count=None):
    publisher, viewer = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    reports = asyncio.Queue()
    video = MediaPlayer(source).video
    video.on("ended", lambda: reports.put_nowait(None))
    publisher.addTrack(video)
    headers = await connect(publisher, urllib.parse.urljoin(service, "/whip?max_rate=10"))
    session = urllib.parse.urljoin(service, headers["Location"])
    try:
        viewer.createDataChannel("results", ordered=False, maxRetransmits=0).on("message", reports.put_nowait)
        viewer.addTransceiver("video", direction="recvonly")
        await connect(viewer, urllib.parse.urljoin(service, headers["Vigie-Watch"]))
        while count != 0 and (report := await reports.get()):
            print(report, flush=True)
            count = count and count - 1
    finally:
        await asyncio.to_thread(hang_up, session)
        await viewer.close()
        await publisher.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
    except KeyboardInterrupt:
        pass
