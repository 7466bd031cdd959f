"""`/predict` from a plain script with requests, as people write it."""

import pathlib
import subprocess
import sys
import unittest

from clients import ROOT, Process

HERE = pathlib.Path(__file__).resolve().parent


class Requests(unittest.TestCase):
    def test_a_hundred_pictures_from_ten_threads_are_answered(self):
        picture = ROOT / "tests/data/pictures/astronaut.jpg"
        with Process("serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0") as service:
            command = [sys.executable, HERE / "post_pictures.py", f"http://{service.address}/predict", picture]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        said = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
        self.assertEqual(said["statuses"], "{200: 100}")
        self.assertEqual(said["faces"], "{1: 100}")
        mean, p95 = (float(said[name].removesuffix(" ms")) for name in ("mean", "p95"))
        self.assertGreater(p95, 0)
        self.assertGreater(mean, 0)


if __name__ == "__main__":
    unittest.main()
