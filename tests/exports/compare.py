"""Adds every exported model to a folder of its own and compares what it is taken for with what it is.

Usage: compare.py VIGIE ORT_LIBRARY FOLDER, with what export.py wrote.
"""

import json
import subprocess
import sys
from pathlib import Path

vigie, runtime, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
expected = json.loads((folder / "expected.json").read_text())
wrong = 0
for name, want in expected.items():
    if want is None:
        print(f"{name:32} not exported")
        wrong += 1
        continue
    fields = [text for flag, value in want["fields"].items() for text in (f"--{flag}", value)]
    command = [vigie, "models", "--models", str(folder / "models"), "add", str(folder / f"{name}.onnx"), "--json"]
    done = subprocess.run([*command, "--ort-library", runtime, *fields], capture_output=True, text=True)
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = {"error": {"code": "no answer", "message": done.stderr[-500:]}}
    if "error" in answer:
        seen = f"{answer['error']['code']}: {answer['error']['message']}"
        is_right = False
    else:
        manifest = answer["manifest"]
        seen = f"{manifest['head']}, {len(manifest['labels'])} classes, {answer['trial']['p50_ms']:.0f} ms"
        is_right = (manifest["head"], len(manifest["labels"])) == (want["head"], want["classes"])
    wrong += not is_right
    print(f"{name:32} {'as expected' if is_right else 'NOT AS EXPECTED'}: {seen}", flush=True)
print(f"{len(expected) - wrong} of {len(expected)} as expected")
sys.exit(wrong > 0)
