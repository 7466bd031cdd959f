"""Makes labels and detections, and what pycocotools says of them.

Usage: goldens.py FOLDER writes labels.json, detections.json and expected.json; goldens.py --check FOLDER compares those that are
there with what pycocotools says now. The Rust tests read them, so that they need no Python.
"""

import contextlib
import json
import random
import sys
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CATEGORIES = ["ant", "bee", "cat", "dog", "eel"]
STATS = [
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
]  # fmt: skip


def make(seed=20261126):
    rng = random.Random(seed)
    number = lambda low, high: round(rng.uniform(low, high), 1)  # noqa: E731
    # Ids neither begin at 1 nor stand in their order.
    images = [{"id": 1000 - 7 * n, "file_name": f"{n:03}.jpg", "width": 640, "height": 480} for n in range(36)]
    categories = [{"id": 3 * n + 2, "name": name} for n, name in enumerate(CATEGORIES)]
    annotations, detections = [], []

    def box(side):
        w, h = number(side * 0.5, side * 1.5), number(side * 0.5, side * 1.5)
        return [number(0, max(0.1, 640 - w)), number(0, max(0.1, 480 - h)), w, h]

    for image in images[:-2]:  # The last two show nothing.
        for category in categories[:-1]:  # The last is nowhere.
            for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
                bbox = box(rng.choice([12, 24, 50, 90, 160, 260]))
                crowd = rng.random() < 0.07
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": category["id"],
                        "bbox": bbox,
                        # Outlines are smaller than their boxes.
                        "area": round(bbox[2] * bbox[3] * rng.uniform(0.5, 1.0), 1),
                        "iscrowd": int(crowd),
                    }
                )
                for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
                    shift = rng.choice([0, 0.02, 0.05, 0.1, 0.2, 0.4])
                    x, y, w, h = bbox
                    moved = [x + number(-w, w) * shift, y + number(-h, h) * shift, w * (1 + number(-1, 1) * shift), h * (1 + number(-1, 1) * shift)]
                    detections.append(found(rng, image, category, moved))
    for image in images:
        for category in categories:
            for _ in range(rng.choice([0, 0, 1, 2])):
                detections.append(found(rng, image, category, box(rng.choice([12, 40, 120, 260]))))
    # More of one class in one picture than are counted, and many with one score.
    for _ in range(130):
        detections.append(found(rng, images[3], categories[1], box(rng.choice([20, 60, 140]))))
    rng.shuffle(detections)
    return {"images": images, "categories": categories, "annotations": annotations}, detections


def found(rng, image, category, bbox):
    return {
        "image_id": image["id"],
        "category_id": category["id"],
        "bbox": [round(side, 1) for side in bbox],
        "score": round(rng.random(), 2),
    }


def evaluate(folder):
    with contextlib.redirect_stdout(sys.stderr):
        truth = COCO(str(folder / "labels.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]

    def mean(values):
        values = values[values > -1]
        return float(np.mean(values)) if values.size else None

    classes = {}
    for place, name in enumerate(CATEGORIES):
        of = precision[:, :, place, 0, 2]
        classes[name] = {
            "ap": mean(of), "ap50": mean(of[0]), "ap75": mean(of[5]), "ar_100": mean(recall[:, place, 0, 2]),
            "ap_small": mean(precision[:, :, place, 1, 2]), "ap_large": mean(precision[:, :, place, 3, 2]),
        }  # fmt: skip
    whole = {name: float(value) if value > -1 else None for name, value in zip(STATS, evaluation.stats)}
    return {"all": whole, "classes": classes}


def main():
    is_check = sys.argv[1] == "--check"
    folder = Path(sys.argv[-1])
    if not is_check:
        labels, detections = make()
        (folder / "labels.json").write_text(json.dumps(labels, separators=(",", ":")) + "\n")
        (folder / "detections.json").write_text(json.dumps(detections, separators=(",", ":")) + "\n")
        (folder / "expected.json").write_text(json.dumps(evaluate(folder), indent=1) + "\n")
        return
    expected, now = json.loads((folder / "expected.json").read_text()), evaluate(folder)
    for name, want in [("all", expected["all"]), *expected["classes"].items()]:
        have = now["all"] if name == "all" else now["classes"][name]
        for figure, value in want.items():
            assert (value is None) == (have[figure] is None), (name, figure)
            assert value is None or abs(value - have[figure]) < 1e-9, (name, figure, value, have[figure])
    print("pycocotools says what the committed figures say")


main()
