"""What both peers recognise with: vigie's own model files, read as their makers' examples do it."""

import json

import cv2
import numpy as np
import onnxruntime

OBJECT_SIDE = 320


class Models:
    """Faces, apparent gender and objects, on vigie's own files (models/README.md)."""

    report_every = 1

    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        load = lambda name: onnxruntime.InferenceSession(
            f"{folder}/{name}/1/model.onnx", options, providers=["CPUExecutionProvider"])
        self.faces, self.gender, self.objects = load("blazeface"), load("faceres"), load("centernet")
        self.anchors = np.concatenate([self._grid(16, 2), self._grid(32, 6)])

    @staticmethod
    def _grid(stride, each):
        centres = stride * (np.arange(256 // stride) + 0.5)
        x, y = np.meshgrid(centres, centres)
        return np.repeat(np.stack([x.ravel(), y.ravel()], 1), each, 0)

    @staticmethod
    def _run(session, picture):
        outputs = session.run(None, {session.get_inputs()[0].name: picture[None]})
        return {output.name: value for output, value in zip(session.get_outputs(), outputs)}

    def find_faces(self, rgb):
        height, width = rgb.shape[:2]
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        square = cv2.copyMakeBorder(rgb, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT)
        out = self._run(self.faces, cv2.resize(square, (256, 256), interpolation=cv2.INTER_LINEAR))
        logits = np.concatenate([out["Identity"][0, :, 0], out["Identity_1"][0, :, 0]])
        values = np.concatenate([out["Identity_2"][0], out["Identity_3"][0]])
        kept = logits > 0
        centres, sizes = self.anchors[kept] + values[kept, :2], values[kept, 2:4]
        boxes = np.concatenate([centres - sizes / 2, sizes], 1) * (side / 256) - [left, top, 0, 0]
        scores = 1 / (1 + np.exp(-np.clip(logits[kept], -80, 80)))
        chosen = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.5, 0.3) if len(boxes) else []
        return [("face", float(scores[i]), boxes[i]) for i in np.array(chosen).flatten()]

    def find_objects(self, rgb):
        height, width = rgb.shape[:2]
        scale = OBJECT_SIDE / max(width, height)
        small = cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
        canvas = np.full((-(-small.shape[0] // 32) * 32, OBJECT_SIDE, 3), 114, np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        peaks = self._run(self.objects, canvas)["detections"][0]
        peaks = peaks[peaks[:, 4] >= 0.35]
        boxes = np.concatenate([peaks[:, :2], peaks[:, 2:4] - peaks[:, :2]], 1) / scale
        found = []
        for label in np.unique(peaks[:, 5]):
            of_class = np.flatnonzero(peaks[:, 5] == label)
            chosen = cv2.dnn.NMSBoxes(boxes[of_class].tolist(), peaks[of_class, 4].tolist(), 0.35, 0.5)
            found += [(f"{int(label)}", float(peaks[i, 4]), boxes[i]) for i in of_class[np.array(chosen).flatten()]]
        return found

    def classify(self, rgb, box):
        x, y, w, h = box
        side = max(w, h)
        left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
        crop = rgb[max(top, 0) : round(top + side), max(left, 0) : round(left + side)]
        if crop.size == 0:
            return None
        out = self._run(self.gender, cv2.resize(crop, (224, 224), interpolation=cv2.INTER_LINEAR))
        return float(next(value for name, value in out.items() if name.startswith("gender"))[0, 0])

    def recognise(self, rgb):
        faces = self.find_faces(rgb)
        return faces + self.find_objects(rgb), [self.classify(rgb, box) for _, _, box in faces]


class Nothing:
    """No model at all: what video alone costs, with a box and a label to draw."""

    # Frames for each report: one a second, as is asked of vigie.
    report_every = 30

    def recognise(self, rgb):
        height, width = rgb.shape[:2]
        return [("face", 0.97, (width / 4, height / 4, width / 4, height / 3))], []


def load(options):
    """What a server is to recognise with."""
    return Nothing() if options.video_only else Models(options.models)


def draw(rgb, found):
    for label, score, (x, y, w, h) in found:
        corner = (int(x), int(y))
        cv2.rectangle(rgb, corner, (int(x + w), int(y + h)), (0, 255, 0), 2)
        cv2.putText(rgb, f"{label} {score:.2f}", (corner[0], corner[1] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 0), 1)


def report(seq, rtp_timestamp, width, height, found, ms):
    """A report in vigie's form, so that `vigie load` can read it."""
    tracks = [{"id": i, "kind": "face" if label == "face" else "object", "label": label, "score": score,
               "box": [float(v) for v in box], "attributes": {}} for i, (label, score, box) in enumerate(found)]
    return json.dumps({
        "seq": seq, "rtp_timestamp": rtp_timestamp, "captured_ms": None, "width": width, "height": height,
        "tracks": tracks, "models": {}, "dropped": 0,
        "timings_ms": {"receive": 0, "decode": 0, "queue": 0, "prepare": 0, "infer": ms, "track": 0, "total": ms}})


def welcome():
    """What a session's socket begins with."""
    return {"type": "welcome", "session": "peer", "resume": "peer", "models": {},
            "tasks": {"faces": True, "gender": True, "objects": True}}
