"""The examples of docs/clients.md, run as they stand there but for the address and the files."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import av

from clients import LIMIT_S, ROOT, Portrait, Process

EXAMPLES = ROOT / "docs/examples"
PICTURE = ROOT / "tests/data/pictures/astronaut.jpg"


def shell_blocks():
    """The shell examples that claim to be run, in order."""
    text = (ROOT / "docs/clients.md").read_text()
    return re.findall(r"\(run by the tests[^)]*\):\n\n```sh\n(.*?)```", text, re.S)


def make_clip(path, frames):
    """The portrait at 10 frames a second, as H264 in an MP4."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width = stream.height = 512
        stream.pix_fmt = "yuv420p"
        picture = Portrait().picture
        for _ in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        file.mux(stream.encode())


class Examples(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        shutil.copy(PICTURE, cls.folder / "picture.jpg")
        make_clip(cls.folder / "clip.mp4", 20)
        service = Process("serve", "--listen", "127.0.0.1:0", "--media", "0.0.0.0:0", "--lanes", "1", "--store", str(cls.folder / "store"))
        cls.service = cls.enterClassContext(service)

    def shell(self, script):
        script = script.replace("127.0.0.1:8080", self.service.address)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, capture_output=True, text=True, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stderr}")
        return done.stdout

    def test_pictures_and_videos_by_curl(self):
        pictures, videos, python = shell_blocks()
        everything, faces = (json.loads(line) for line in self.shell(pictures).splitlines())
        self.assertIn("face", [track["kind"] for track in everything])
        self.assertEqual({track["kind"] for track in faces}, {"face"})
        with av.open(str(self.folder / "annotated.jpg")) as annotated:
            self.assertEqual((annotated.streams.video[0].width, annotated.streams.video[0].height), (512, 512))

        state, tracks = self.shell(videos).splitlines()
        self.assertEqual(state, "done")
        self.assertEqual({track["kind"] for track in json.loads(tracks)}, {"face"})
        with av.open(str(self.folder / "annotated.mp4")) as annotated:
            self.assertEqual(sum(1 for _ in annotated.decode(video=0)), 20)
        self.assertIn("docs/examples/watch.py", python)

    def test_a_file_is_published_and_its_reports_printed_by_python(self):
        make_clip(self.folder / "long.mp4", 600)
        command = [sys.executable, "-W", "ignore", str(EXAMPLES / "watch.py"), f"http://{self.service.address}", str(self.folder / "long.mp4"), "3"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT_S, env={**os.environ, "VIGIE_TOKEN": ""})
        self.assertEqual(done.returncode, 0, done.stderr)
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(len(reports), 3)
        self.assertIn("face", [track["kind"] for report in reports for track in report["tracks"]])


if __name__ == "__main__":
    unittest.main(verbosity=2)
