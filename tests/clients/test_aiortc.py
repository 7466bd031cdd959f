"""WHIP and WHEP with aiortc, an implementation that shares no code with vigie or any browser."""

import asyncio
import unittest

from clients import Portrait, Publisher, Viewer, ask, eventually, front, worker

TOTAL = 'vigie_frames_total{stage="total"}'
ENCODED = 'vigie_frames_total{stage="encode"}'


def drawn_share(frame, face):
    """How much of the face's frame is in one strong colour: the picture itself has none there."""
    u, v = (plane.astype(int) - 128 for plane in chroma(frame))
    left, top, width, _ = (round(side) for side in face["box"])
    columns = range((left + width // 5) // 2, (left + 4 * width // 5) // 2)
    rows = range((top - 4) // 2, (top + 4) // 2 + 1)
    strong = [any(max(abs(u[row, column]), abs(v[row, column])) > 40 for row in rows) for column in columns]
    return sum(strong) / len(strong)


def chroma(frame):
    flat = frame.to_ndarray(format="yuv420p").reshape(-1)
    size, shape = frame.width * frame.height, (frame.height // 2, frame.width // 2)
    return flat[size : size * 5 // 4].reshape(shape), flat[size * 5 // 4 :].reshape(shape)


class Aiortc(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        asyncio.get_running_loop().set_debug(False)

    async def test_vp8_and_h264_are_recognised_and_watched(self):
        with worker() as w, front(w) as f:
            for codec in ("video/VP8", "video/H264"):
                with self.subTest(codec=codec):
                    await self.publish_and_watch(w, f, codec)

    async def publish_and_watch(self, w, f, codec):
        seen = w.metric(TOTAL)
        publisher = await Publisher(f.address).publish(codec, "?threshold=0.4")
        await eventually("pictures are recognised", lambda: w.metric(TOTAL) > seen + 3)
        encoded = w.metric(ENCODED)
        self.assertEqual(w.metric("vigie_viewers_active"), 0)

        first = await Viewer(f.address).watch(publisher.watch)
        await eventually("the first viewer sees", lambda: len(first.frames) == 5 and len(first.reports) > 3)
        second = await Viewer(f.address).watch(publisher.watch)
        await eventually("the second viewer sees", lambda: len(second.frames) == 5)
        self.assertEqual(w.metric("vigie_viewers_active"), 2)
        faces = [track for track in first.reports[-1]["tracks"] if track["kind"] == "face"]
        face = max(faces, key=lambda track: track["score"])
        frame = first.frames[-1]
        self.assertEqual((frame.width, frame.height), (512, 512))
        self.assertGreater(drawn_share(frame, face), 0.8)
        self.assertLess(drawn_share(await Portrait().recv(), face), 0.2)

        self.assertEqual((await second.hang_up()).status, 200)
        self.assertEqual((await first.hang_up()).status, 200)
        self.assertEqual(w.metric("vigie_viewers_active"), 0)
        after = await self.settled(w, ENCODED)
        seen = w.metric(TOTAL)
        await eventually("recognition goes on", lambda: w.metric(TOTAL) > seen + 3)
        self.assertGreater(after, encoded)
        self.assertEqual(w.metric(ENCODED), after, "nothing is encoded when nobody watches")

        self.assertEqual((await publisher.hang_up()).status, 200)
        self.assertEqual(w.metric("vigie_sessions_active"), 0)

    async def settled(self, w, metric):
        """The value once what was under way is done."""
        await asyncio.sleep(0.5)
        return w.metric(metric)

    async def test_a_session_outlives_its_front(self):
        with worker() as w:
            with front(w) as doomed:
                publisher = await Publisher(doomed.address).publish()
                viewer = await Viewer(doomed.address).watch_when_live(publisher.watch)
            # No front is left, and media flows on.
            seen = len(viewer.reports)
            await eventually("reports go on", lambda: len(viewer.reports) > seen + 3)
            with front(w) as f:
                other = await Viewer(f.address).watch(publisher.watch)
                await eventually("another viewer sees", lambda: len(other.frames) == 5)
                self.assertEqual((await publisher.hang_up(f.address)).status, 200)
                self.assertEqual(w.metric("vigie_sessions_active"), 0)
                await eventually("viewers end with the session", lambda: w.metric("vigie_viewers_active") == 0)
                for client in (viewer, other):
                    await client.peer.close()
                gone = await ask(f.address, "DELETE", publisher.resource)
                self.assertEqual((gone.status, gone.code), (404, "unknown_session"))

    async def test_a_publisher_that_vanishes_leaves_nothing(self):
        with worker() as w, front(w) as f:
            publisher = await Publisher(f.address).publish()
            viewer = await Viewer(f.address).watch_when_live(publisher.watch)
            await publisher.peer.close()
            await eventually("the session ends", lambda: w.metric("vigie_sessions_active") == 0)
            await eventually("so do its viewers", lambda: w.metric("vigie_viewers_active") == 0)
            await viewer.peer.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
