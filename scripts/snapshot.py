"""Hashes of what a dozen commands make, to hold a rebuild to: the same commands give the same bytes before and after.

    python scripts/snapshot.py ../shared > before.txt      and again afterwards; then diff

Without the folder that holds checkpoints and data, the embedded network alone. Logs and reports, which hold times, are
left out.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
DIGITS = """
quantize digits --bits 8 --out w8a8
quantize digits --bits 4 --calib-images 64 --out w4a8
quantize digits --format W8A8-dynamic --calib-images 64 --range minmax --exclude head --out dynamic
quantize digits --format W4A16 --calib-images 64 --seed 3 --out w4a16
quantize digits --format FP8 --calib-images 64 --attention-products --out fp8
quantize digits --max-drop 5 --candidate W8A8 --candidate W4A8 --effort fast --held-out-images 400 --out search
export w8a8 --onnx --out onnx
export w8a8 --onnx --target cuda --simulate --out cuda
export w4a8 --openvino --temperature 1.5 --out openvino
export w4a8 --trt --onnx-only --out trt
export digits --onnx --image-size 48 --out float
train --recipe digits --epochs 1 --threads 1 --out run
qat digits --bits 8 --epochs 1 --calib-images 64 --threads 1 --out qat
evaluate onnx/model.onnx --data digits --reference w8a8 --properties calibration --bins 10 --json figures/onnx.json
evaluate digits --data digits --properties attention-rank --mask bidirectional --rank-images 16 --json figures/f.json
"""
CIFAR = """
quantize {shared}/checkpoints/illama-tiny-cifar10.pth --data parquet:{shared}/data/cifar10 --calib-images 64 --out c8
export c8 --onnx --out connx
export c8 --openvino --no-float --out copenvino
"""
TIMED = {"log.jsonl", "curves.png", "state.pt", "workspace.json"}


def main() -> None:
    """Run them in a folder of their own, and print a line for each file."""
    shared = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    lines = DIGITS + (CIFAR.format(shared=shared) if shared else "")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["XDG_STATE_HOME"] = str(place / "state")
        (place / "figures").mkdir()
        for line in lines.strip().splitlines():
            command = [sys.executable, "-m", "illama_deploy", *shlex.split(line)]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            print(f"# {done.returncode} {line.replace(str(shared), 'SHARED')}", flush=True)
            if done.returncode:
                print(done.stderr, flush=True)
        for path in sorted(place.rglob("*")):
            relative = path.relative_to(place)
            if path.is_file() and path.name not in TIMED and relative.parts[0] != "state":
                print(hashlib.sha256(path.read_bytes()).hexdigest()[:16], relative)


if __name__ == "__main__":
    main()
