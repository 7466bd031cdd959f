"""Exports models as their makers' tools do, with random weights, and says what each is to be taken for.

Usage: export.py FOLDER. Writes FOLDER/<name>.onnx and FOLDER/expected.json: for each name the head, the number of
classes, and the fields that a person has to give because the file cannot say it.
"""

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

# Neither telemetry nor looking for newer versions: nothing here needs a network.
os.environ.update(YOLO_OFFLINE="true", HF_HUB_OFFLINE="1", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false", WANDB_MODE="disabled")
warnings.filterwarnings("ignore")

import torch  # noqa: E402

torch.manual_seed(7)
FOLDER = Path(sys.argv[1])
EXPECTED = {}

# Configuration in the package, options of the export, head, classes. `nms=False` keeps the branch of v10 and 26 that needs no
# suppression, which is left out otherwise. A side of 320 is quick, and no less like the real thing.
ULTRALYTICS = {
    "yolov5nu": ("yolov5n.yaml", {}, "yolo", 80),
    "yolov8n": ("yolov8n.yaml", {}, "yolo", 80),
    "yolov8n-wide": ("yolov8n.yaml", {"imgsz": [192, 320]}, "yolo", 80),
    "yolov8n-dynamic": ("yolov8n.yaml", {"dynamic": True}, "yolo", 80),
    "yolov8n-half": ("yolov8n.yaml", {"half": True}, "yolo", 80),
    "yolov8n-simplified": ("yolov8n.yaml", {"simplify": True}, "yolo", 80),
    "yolov8n-nms": ("yolov8n.yaml", {"nms": True}, "yolo-end2end", 80),
    "yolov8n-seg": ("yolov8n-seg.yaml", {}, "yolo", 80),
    "yolov8n-pose": ("yolov8n-pose.yaml", {}, "yolo", 1),
    "yolov8n-cls": ("yolov8n-cls.yaml", {"imgsz": 224}, "classifier", 1000),
    "yolov10n": ("yolov10n.yaml", {"nms": False}, "yolo-end2end", 80),
    "yolov10n-raw": ("yolov10n.yaml", {}, "yolo", 80),
    "yolo11n": ("yolo11n.yaml", {}, "yolo", 80),
    "yolo12n": ("yolo12n.yaml", {}, "yolo", 80),
    "yolo26n": ("yolo26n.yaml", {"nms": False}, "yolo-end2end", 80),
    "yolo26n-raw": ("yolo26n.yaml", {}, "yolo", 80),
    "yolo26n-seg": ("yolo26n-seg.yaml", {"nms": False}, "yolo-end2end", 80),
    "rtdetr-l": ("rtdetr-l.yaml", {}, "detr-end2end", 80),
}


def attempt(name, head, classes, export, **fields):
    """Runs `export`, which returns the file that it wrote."""
    try:
        file = Path(export())
    except Exception:  # One tool that fails leaves the others.
        traceback.print_exc(limit=2)
        print(f"{name}: could not be exported", file=sys.stderr)
        EXPECTED[name] = None
        return
    os.replace(file, FOLDER / f"{name}.onnx")
    EXPECTED[name] = {"head": head, "classes": classes, "fields": fields}
    print(f"{name}: exported", file=sys.stderr)


def ultralytics(name):
    configuration, options, _, _ = ULTRALYTICS[name]
    from ultralytics import RTDETR, YOLO

    kind = RTDETR if configuration.startswith("rtdetr") else YOLO
    model = kind(configuration)
    # The export is called as the configuration, which several have in common.
    work = FOLDER / "work"
    work.mkdir(exist_ok=True)
    os.chdir(work)
    return work / model.export(**{"format": "onnx", "imgsz": 320, "simplify": False, "device": "cpu", **options})


def torchvision(name):
    from torchvision.models import detection, mobilenet_v3_small

    # torchvision's transform takes pictures from 0 to 1 without a batch: what people wrap it in gives it one.
    class Batched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            make = getattr(detection, name)
            self.inner = make(weights=None, weights_backbone=None)

        def forward(self, pictures):
            found = self.inner([pictures[0]])[0]
            return found["boxes"], found["scores"], found["labels"]

    if name == "mobilenet_v3_small":
        model, outputs = mobilenet_v3_small(weights=None), ["logits"]
    else:
        model, outputs = Batched(), ["boxes", "scores", "labels"]
    file = FOLDER / f"{name}.tmp.onnx"
    side = 224 if outputs == ["logits"] else 320
    torch.onnx.export(
        model.eval(), torch.rand(1, 3, side, side), str(file), opset_version=17, dynamo=False,
        input_names=["images"], output_names=outputs,
    )
    return file


def transformers(name):
    """`RTDetrForObjectDetection` and `DFineForObjectDetection` with the outputs that they name."""
    import transformers as hf

    configurations = {
        "rtdetr-hf": (hf.RTDetrConfig, hf.RTDetrForObjectDetection, {}),
        "rtdetrv2-hf": (hf.RTDetrV2Config, hf.RTDetrV2ForObjectDetection, {}),
        "dfine-hf": (hf.DFineConfig, hf.DFineForObjectDetection, {}),
    }
    make_configuration, make, options = configurations[name]
    model = make(make_configuration(num_labels=80, **options)).eval()

    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, pixel_values):
            found = self.inner(pixel_values)
            return found.logits, found.pred_boxes

    file = FOLDER / f"{name}.tmp.onnx"
    torch.onnx.export(
        Named(), torch.rand(1, 3, 320, 320), str(file), opset_version=17, dynamo=False,
        input_names=["pixel_values"], output_names=["logits", "pred_boxes"],
    )
    return file


def rf_detr(_name):
    from rfdetr import RFDETRNano

    RFDETRNano(pretrain_weights=None).export(output_dir=str(FOLDER / "work"))
    return FOLDER / "work" / "rfdetr-nano.onnx"


def main():
    only = sys.argv[2:]
    wanted = lambda name: not only or name in only  # noqa: E731
    for name, (_, _, head, classes) in ULTRALYTICS.items():
        if wanted(name):
            attempt(name, head, classes, lambda name=name: ultralytics(name))
    labels = ",".join(f"class{n}" for n in range(91))
    for name in ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"]:
        if wanted(name):
            attempt(name, "boxes", 91, lambda name=name: torchvision(name), labels=labels)
    if wanted("mobilenet_v3_small"):
        attempt("mobilenet_v3_small", "classifier", 1000, lambda: torchvision("mobilenet_v3_small"))
    for name in ["rtdetr-hf", "rtdetrv2-hf", "dfine-hf"]:
        if wanted(name):
            attempt(name, "detr", 80, lambda name=name: transformers(name))
    if wanted("rfdetr-nano"):
        attempt("rfdetr-nano", "detr", 91, lambda: rf_detr("rfdetr-nano"))
    (FOLDER / "expected.json").write_text(json.dumps(EXPECTED, indent=1) + "\n")


main()
