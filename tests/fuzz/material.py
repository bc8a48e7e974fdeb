"""One whole file of each kind, made by the command line itself on the embedded network."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from illama_deploy.checkpoint import find_checkpoint, read_checkpoint

from .server import run

__all__ = ["MEAN", "make_material"]

#: What files without metadata have to be told.
MEAN = ("--mean", "0.3", "--std", "0.3")

TRAINING = """\
# One short epoch of the embedded network, with what recipes know of augmentation.
data = "digits"
epochs = 2
batch_size = 128
optimizer = "adamw"
lr = 1.5e-3
lr_start = 1e-5
warmup_epochs = 1
weight_decay = 0.05
smoothing = 0.1
soft_mask = "linear"
soft_mask_epochs = 1
mixup = 0.2
cutmix = 0.2
flip = 0.5
rotate = 12
shear = 8
shift = 0.1
zoom = [0.85, 1.15]
mean = [0.3]
std = [0.3]
stored = "float16"
precision = "float32"
evaluate_every = 1
drop_path = 0.1
clip_grad = 1.0
ema = 0.9

[model]
dim = 64
depth = 1
heads = 1
image_size = 32
patch_size = 8
channels = 1
"""

#: The same by timm's pipeline.
DECODED = TRAINING.replace(
    "rotate = 12\nshear = 8\nshift = 0.1\nzoom = [0.85, 1.15]\n",
    """\
pipeline = "timm"
auto_augment = "rand-m9-mstd0.5-inc1"
color_jitter = 0.4
erasing = 0.25
crop_scale = [0.5, 1.0]
""",
)

#: What is made, and by which command; in order.
COMMANDS = {
    "w8a8": "quantize digits.safetensors --calib-images 8 --out w8a8",
    "w4a16": "quantize digits.safetensors --format W4A16-g64 --calib-images 8 --effort fast --out w4a16",
    "searched": "quantize digits.safetensors --max-drop 5 --candidate W8A8 --candidate W4A8 --effort fast "
    "--calib-images 8 --held-out-images 400 --out searched",
    "onnx": "export w8a8 --onnx --out onnx",
    "openvino": "export w8a8 --openvino --out openvino",
    "report": "check onnx/model.onnx --baseline onnx/model.float.onnx --limit 16 --rounds 10 --batch 1 --out report",
    "run": "train --recipe training.toml --data folder:images --eval-data parquet:digits.parquet --batch-size 10 "
    "--out run",
    "workspace/quantized": "quantize digits.safetensors --calib-images 8 --workspace workspace",
    "workspace/onnx": "export --onnx --workspace workspace",
    "trt": "export w8a8 --trt --flavor rtx --compute-capability 8.9 --out trt",
}


def make_material(root: Path) -> Path:
    """Make what is not there yet, and return the folder; what this machine remembers of it lies beside it, in `state`.

    Raises:
        RuntimeError: a step failed on whole files.
    """
    place = root / "material"
    if (root / "state").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    _plain_files(place)
    for made, line in COMMANDS.items():
        if (place / made).exists():
            continue
        outcome = run(line.split(), place, root / "aside")
        if outcome.code not in (0, 1, 3) and made != "trt":  # TensorRT for RTX may not be installed
            raise RuntimeError(f"illama-deploy {line}: exit code {outcome.code}\n{outcome.err}")
    shutil.copytree(root / "aside" / "state", root / "state", dirs_exist_ok=True)
    shutil.rmtree(root / "aside")
    return place


def _plain_files(place: Path) -> None:
    if (place / "list.txt").exists():
        return
    shutil.copyfile(find_checkpoint("digits"), place / "digits.safetensors")
    state = dict(read_checkpoint("digits").state)
    torch.save({"model": state, "epoch": 3}, place / "digits.pth")
    (place / "training.toml").write_text(TRAINING)
    (place / "decoded.toml").write_text(DECODED)
    recipes = Path(__file__).parents[2] / "illama_deploy" / "recipes"
    for name in ("w8a8", "w4a4"):
        shutil.copyfile(recipes / f"{name}.toml", place / f"{name}.toml")
    learned = (recipes / "w4a8.toml").read_text().replace("seed = 0", "seed = 0\nreconstruct = 6", 1)
    (place / "learned.toml").write_text(learned)
    _images(place)
    names = {letter: [label] for label, letter in enumerate("abcdefghij")}
    (place / "names.txt").write_text("".join(f"{label}\n" for label in range(10)))
    (place / "names.json").write_text(json.dumps([str(label) for label in range(10)], indent=1))
    (place / "categories.json").write_text(json.dumps({"source": "digits", "categories": names}, indent=1))


def _images(place: Path) -> None:
    """Digits as folders of PNG and JPEG files, as a table, as a list and as cue-conflict stimuli."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = []
    (place / "stimuli").mkdir(exist_ok=True)
    for label in range(10):
        folder = place / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(np.flatnonzero(digits.target == label)[:3]):
            image = Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).resize((32, 32))
            out = io.BytesIO()
            image.save(out, "JPEG" if number == 1 else "PNG")
            (folder / f"{number}.{'jpg' if number == 1 else 'png'}").write_bytes(out.getvalue())
            rows.append((out.getvalue(), label))
            image.save(place / "stimuli" / f"{'abcdefghij'[label]}{number}-{'bcdefghija'[label]}1.png")
    table = {"image": [{"bytes": image, "path": None} for image, _ in rows], "label": [label for _, label in rows]}
    pq.write_table(pa.table(table), place / "digits.parquet")
    files = sorted((place / "images").rglob("*.*"), key=os.fspath)
    (place / "list.txt").write_text("".join(f"{file.relative_to(place).as_posix()}\n" for file in files))
