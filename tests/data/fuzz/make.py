#!/usr/bin/env python3
"""Makes the pictures and videos that fuzzing begins with: the good files of tests/hostile, as small as they get."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parents[1] / "hostile"))
import seeds  # noqa: E402

PICTURES = {".jpg", ".png", ".gif", ".bmp", ".tiff", ".webp", ".avif"}

for name, data in seeds.make(size="32x32", seconds=0.3, sampling=8000).items():
    folder = HERE / ("image" if pathlib.Path(name).suffix in PICTURES else "container")
    folder.mkdir(exist_ok=True)
    if len(data) <= 16 << 10:
        (folder / name).write_bytes(data)
