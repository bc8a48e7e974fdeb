"""Kinds of files, and the steps that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .draw import Draw, Edit
from .edit_bytes import BYTES
from .edit_images import IMAGES, PARQUET
from .edit_json import JSON, JSON_LINES, RESEALED
from .edit_lines import LISTS, TOML
from .edit_onnx import ONNX
from .edit_tensors import PTH, SAFETENSORS
from .mend import mend_manifest, mend_onnx

__all__ = ["KINDS", "Kind"]

FLOAT = "digits.safetensors"
SEALED = (*JSON, *RESEALED, *RESEALED)


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        share: of all mutants, relatively.
        files: those that mutants are made of, one at a time, by their place in the material.
        needs: what else a command reads.
        commands: each mutant is read by one of them. `{file}` is the file, `{folder}` where it is.
        edits: drawn from, evenly.
        guard: `seal`: no edit may change the answers, but for one that makes the seal anew; `sums`: no damage may;
            `none`: nobody can see that the file was another.
        damaged: share of edits of bytes, which come besides.
        mend: makes the hashes in other files anew, so that every mutant is a whole file of its own.
    """

    name: str
    share: int
    files: tuple[str, ...]
    needs: tuple[str, ...]
    commands: tuple[str, ...]
    edits: tuple[Edit, ...]
    guard: str
    damaged: float = 0.2
    mend: Callable[[Path], None] | None = None

    def edit(self, draw: Draw) -> Edit:
        """One of the edits, or of those of bytes."""
        return draw.rng.choice(BYTES if draw.rng.random() < self.damaged else self.edits)


EVALUATE = "--limit 2 --save-logits out/logits.npz --json out/figures.json"
QUANTIZE = "--calib-images 2 --out out/quantized"
BENCH = "--rounds 10 --batch 1 --json out/times.json"
CHECK = "--limit 2 --rounds 10 --batch 1 --no-sensitivity --out out/report"
INSPECT = "--json out/inspection.json"
PLAIN = "digits.pth --data digits --mean 0.3 --std 0.3"
#: A run whose output is `run` itself.
TRAIN = "--data folder:images --eval-data parquet:digits.parquet --batch-size 10"
RESUME = f"train --recipe training.toml {TRAIN} --out run --resume"

FROM_FLOAT = (f"evaluate {FLOAT} {EVALUATE}", f"evaluate {FLOAT} {EVALUATE}", f"quantize {FLOAT} {QUANTIZE}")
FROM_PTH = (f"evaluate {PLAIN} {EVALUATE}", f"evaluate {PLAIN} {EVALUATE}", f"quantize {PLAIN} {QUANTIZE}")
FROM_QUANTIZED = (f"evaluate {{folder}} {EVALUATE}", f"export {{folder}} --onnx --source {FLOAT} --out out/onnx")
INSPECT_SITES = f"inspect {{folder}} --images 2 {INSPECT}"
FROM_ONNX = (f"evaluate {{file}} {EVALUATE}", f"evaluate {{file}} {EVALUATE}", f"bench {{file}} {BENCH}")
INSPECT_FILE = f"inspect {{file}} {INSPECT}"
CHECK_FILES = f"check onnx/model.onnx --baseline onnx/model.float.onnx {CHECK}"
FROM_EXPORT = (f"check onnx {CHECK}", f"evaluate onnx/model.onnx {EVALUATE}", f"inspect onnx {INSPECT}")
FROM_ENGINE = tuple(f"{command} trt/model.engine {rest}" for command, rest in
                    (("inspect", INSPECT), ("evaluate", EVALUATE), ("bench", BENCH)))  # fmt: skip
RENDERERS = "report report/report.json --format md,html,junit,benchmark-json,csv --out out/faces"
FROM_REPORT = (RENDERERS, RENDERERS, "report --history report --out out/history",
               f"{CHECK_FILES} --against report/report.json")  # fmt: skip
FROM_WORKSPACE = ("export --onnx --workspace workspace --out out/onnx", f"check --workspace workspace {CHECK}")
SHAPES = (
    "evaluate w8a8 --limit 2 --properties shape-bias --cue-conflict stimuli --categories categories.json "
    "--json out/figures.json",
)


def _from_images(spec: str) -> tuple[str, ...]:
    return (
        f"evaluate w8a8 --data {spec} --save-logits out/logits.npz",
        f"evaluate w8a8 --data {spec} --skip-broken --save-logits out/logits.npz",
        f"quantize {FLOAT} --data {spec} --calib-images 30 --out out/quantized",
    )


FLOATS = ("w8a8", FLOAT)
QUANTIZED = ("w8a8/model.safetensors", "w4a16/model.safetensors")
MANIFESTS = ("w8a8/manifest.json", "w4a16/manifest.json", "searched/manifest.json")
MODELS = ("onnx/model.onnx", "onnx/model.float.onnx")
RUN = ("run", "training.toml", "images", "digits.parquet")
RECIPES = ("training.toml", "decoded.toml")
NAMED = ("evaluate w8a8 --data folder:images?classes={file} --limit 2 --json out/figures.json",)

_ALL = (
    Kind("pth", 9, ("digits.pth",), (), FROM_PTH, PTH, "sums", 0.4),
    Kind("safetensors", 9, (FLOAT,), (), FROM_FLOAT, SAFETENSORS, "none", 0.4),
    Kind("manifest", 12, MANIFESTS, (FLOAT,), (*FROM_QUANTIZED, INSPECT_SITES), SEALED, "seal"),
    Kind("quantized", 3, QUANTIZED, (FLOAT,), FROM_QUANTIZED, SAFETENSORS, "seal", 0.5),
    Kind("quantized, mended", 8, QUANTIZED, (FLOAT,), FROM_QUANTIZED, SAFETENSORS, "none", mend=mend_manifest),
    Kind("search.json", 3, ("searched/search.json",), (FLOAT,), (*FROM_QUANTIZED, INSPECT_SITES), SEALED, "seal"),
    Kind("recipe", 8, ("w8a8.toml", "w4a4.toml"), (FLOAT,), (f"quantize {FLOAT} --recipe {{file}} {QUANTIZE}",), TOML,
         "none"),
    Kind("training recipe", 8, RECIPES, ("images", "digits.parquet"),
         (f"train --recipe {{file}} --epochs 2 {TRAIN} --out out/run",), TOML, "none"),
    Kind("state", 8, ("run/state.pt",), RUN, (RESUME,), PTH, "seal", 0.4),
    Kind("log", 4, ("run/log.jsonl",), RUN, (RESUME,), JSON_LINES, "seal", 0.3),
    Kind("sidecar", 9, ("trt/model.engine.json",), (), (*FROM_ENGINE, f"check trt {CHECK}"), SEALED, "seal"),
    Kind("onnx", 6, MODELS, (), (*FROM_ONNX, INSPECT_FILE, CHECK_FILES), ONNX, "seal", 0.5),
    Kind("onnx, mended", 12, MODELS, (), (*FROM_ONNX, INSPECT_FILE, CHECK_FILES), ONNX, "none", 0.1, mend_onnx),
    Kind("openvino, mended", 4, ("openvino/model.onnx",), (), (FROM_ONNX[0], INSPECT_FILE), ONNX, "none", 0.1,
         mend_onnx),
    Kind("export.json", 9, ("onnx/export.json",), ("w8a8",), FROM_EXPORT, SEALED, "seal"),
    Kind("report", 10, ("report/report.json",), ("onnx",), FROM_REPORT, SEALED, "seal"),
    Kind("workspace", 6, ("workspace/workspace.json",), (FLOAT,), FROM_WORKSPACE, SEALED, "seal"),
    Kind("categories", 4, ("categories.json",), ("stimuli", "w8a8"), SHAPES, JSON, "none"),
    Kind("stimulus", 2, ("stimuli/d0-e1.png",), ("w8a8", "categories.json"), SHAPES, IMAGES, "none"),
    Kind("image", 7, ("images/3/0.png", "images/3/1.jpg"), FLOATS, _from_images("folder:images"), IMAGES, "none", 0.4),
    Kind("parquet", 7, ("digits.parquet",), FLOATS, _from_images("parquet:digits.parquet"), PARQUET, "none", 0.4),
    Kind("list of images", 3, ("list.txt",), ("images", FLOAT), (f"quantize {FLOAT} --data list:list.txt {QUANTIZE}",),
         LISTS, "none"),
    Kind("class names, txt", 1, ("names.txt",), ("images", "w8a8"), NAMED, LISTS, "none"),
    Kind("class names, json", 1, ("names.json",), ("images", "w8a8"), NAMED, JSON, "none"),
)  # fmt: skip

KINDS = {kind.name: kind for kind in _ALL}
