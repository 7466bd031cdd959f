#!/usr/bin/env python3
"""Makes the pictures and goldens of tests/data/text with the wheel's own pipeline.

    python3 -m venv venv && venv/bin/pip install rapidocr-onnxruntime==1.4.4 pillow
    venv/bin/python make_text_goldens.py ../../tests/data/text

signs.jpg is drawn here; page.png is a photograph (see SOURCES.md there). The detector is given pictures enlarged
twice, as vigie does for files, and lines are not turned round by the wheel's third model, which vigie does not use.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR

FONTS = Path("/usr/share/fonts/truetype/dejavu")


def font(name, size):
    return ImageFont.truetype(str(FONTS / f"{name}.ttf"), size)


def signs():
    """A stop sign, a street's name, a slanting line and one from top to bottom, on an uneven ground."""
    width, height = 640, 480
    y, x = np.mgrid[0:height, 0:width]
    ground = np.stack([120 + 60 * x / width, 140 + 40 * y / height, 150 - 30 * x / width], axis=-1)
    noise = np.random.default_rng(7).normal(0, 4, ground.shape)
    picture = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)

    centre, reach = (150, 150), 95
    corners = [(centre[0] + reach * np.cos(a), centre[1] + reach * np.sin(a)) for a in np.pi / 8 + np.arange(8) * np.pi / 4]
    draw.polygon(corners, fill=(190, 20, 30), outline=(250, 250, 250), width=4)
    draw.text(centre, "STOP", font=font("DejaVuSans-Bold", 52), fill=(250, 250, 250), anchor="mm")

    draw.rectangle((300, 60, 620, 120), fill=(20, 60, 140))
    draw.text((460, 90), "Rue de la Paix 12", font=font("DejaVuSans", 32), fill=(250, 250, 250), anchor="mm")

    def turned(text, name, size, ink, degrees, at):
        layer = Image.new("RGBA", (400, 80))
        ImageDraw.Draw(layer).text((200, 40), text, font=font(name, size), fill=ink, anchor="mm")
        layer = layer.rotate(degrees, expand=True, resample=Image.Resampling.BICUBIC)
        picture.paste(layer, (at[0] - layer.width // 2, at[1] - layer.height // 2), layer)

    turned("VIGIE 2026", "DejaVuSerif-Bold", 44, (20, 20, 20), 12, (420, 250))
    turned("NORD", "DejaVuSans-Bold", 40, (10, 40, 10), -90, (70, 370))
    draw.text((380, 420), "exit 27B, 350 m", font=font("DejaVuSansMono", 30), fill=(245, 240, 200), anchor="mm")
    return picture


def read(engine, path):
    picture = cv2.imread(str(path))
    engine.text_det.limit_side_len = 2 * min(picture.shape[:2])
    engine.text_det.limit_type = "min"
    lines, _ = engine(picture, use_cls=False)
    def golden(line):
        box, text, score = line
        return {"box": [[round(float(v), 1) for v in point] for point in box], "text": text, "score": round(float(score), 3)}
    return [golden(line) for line in lines or []]


def map_of(engine, path, folder):
    """The detector's map of a picture in 8 bits, and what the wheel finds in just that."""
    detector = engine.text_det
    picture = cv2.imread(str(path))
    height, width = picture.shape[:2]
    detector.limit_side_len = 2 * min(height, width)
    given = detector.get_preprocess(max(height, width))(picture)
    values = detector.infer(given)[0]
    bytes_ = np.clip(np.round(values[0, 0] * 255), 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "map.png"), bytes_)
    again = (bytes_.astype(np.float32) / 255)[None, None]
    boxes, scores = detector.postprocess_op(again, (height, width))
    return [{"box": box.astype(float).tolist(), "score": round(float(score), 4)} for box, score in zip(boxes, scores)]


def main(folder):
    signs().save(folder / "signs.jpg", quality=92)
    engine = RapidOCR(intra_op_num_threads=1)
    goldens = {name: read(engine, folder / name) for name in ("signs.jpg", "page.png")}
    goldens["map.png"] = map_of(engine, folder / "page.png", folder)
    lines = json.dumps(goldens, indent=1, ensure_ascii=False)
    (folder / "goldens.json").write_text(lines + "\n")
    for name, found in goldens.items():
        print(name, [line.get("text", line["score"]) for line in found])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
