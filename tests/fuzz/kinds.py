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
from .material import MEAN
from .mend import mend_manifest, mend_onnx

__all__ = ["KINDS", "Kind"]

FEW = ("--limit", "2")
EVALUATE = (*FEW, "--save-logits", "out/logits.npz", "--json", "out/figures.json")
QUANTIZE = ("--calib-images", "2", "--out", "out/quantized")
EXPORT = ("--onnx", "--out", "out/onnx")
CHECK = (*FEW, "--rounds", "10", "--batch", "1", "--no-sensitivity", "--out", "out/report")
FLOAT = ("--baseline", "onnx/model.float.onnx")
SHAPES = ("--properties", "shape-bias", "--cue-conflict", "stimuli", "--categories", "categories.json")
FACES = ("--format", "md,html,junit,benchmark-json,csv", "--out", "out/faces")
IMAGES_TWICE = ("--data", "folder:images", "--eval-data", "parquet:digits.parquet", "--batch-size", "10")
TRAIN = ("train", "--recipe", "training.toml", *IMAGES_TWICE, "--out")
Guard = str


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        files: those that mutants are made of, one at a time, by their place in the material.
        needs: what else a command reads.
        commands: each mutant is read by one of them.
        edits: drawn from, evenly; damage to bytes comes besides.
        guard: `seal`: no edit may change the answers, but for one that makes the seal anew; `sums`: no damage may;
            `none`: nobody can see that the file was another.
        share: of all mutants, relatively.
        resumes: the run is the output.
        mend: makes the hashes in other files anew, so that every mutant is a whole file of its own.
    """

    name: str
    files: tuple[str, ...]
    needs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    edits: tuple[Edit, ...]
    guard: Guard
    share: int
    bytes_share: float = 0.4
    resumes: bool = False
    mend: Callable[[Path], None] | None = None

    def edit(self, draw: Draw) -> Edit:
        """One of the edits, or of those of bytes."""
        return draw.rng.choice(BYTES if draw.rng.random() < self.bytes_share else self.edits)


def _kinds() -> tuple[Kind, ...]:
    return (
        Kind(
            "pth",
            ("digits.pth",),
            (),
            (
                ("evaluate", "digits.pth", "--data", "digits", *MEAN, *EVALUATE),
                ("evaluate", "digits.pth", "--data", "digits", *MEAN, *EVALUATE),
                ("quantize", "digits.pth", "--data", "digits", *MEAN, *QUANTIZE),
            ),
            PTH,
            "sums",
            9,
        ),
        Kind(
            "safetensors",
            ("digits.safetensors",),
            (),
            (
                ("evaluate", "digits.safetensors", *EVALUATE),
                ("evaluate", "digits.safetensors", *EVALUATE),
                ("quantize", "digits.safetensors", *QUANTIZE),
            ),
            SAFETENSORS,
            "none",
            9,
        ),
        Kind(
            "manifest",
            ("w8a8/manifest.json", "w4a16/manifest.json", "searched/manifest.json"),
            ("digits.safetensors",),
            (
                ("evaluate", "{folder}", *EVALUATE),
                ("export", "{folder}", *EXPORT),
                ("inspect", "{folder}", "--images", "2", "--json", "out/inspection.json"),
            ),
            (*JSON, *RESEALED, *RESEALED),
            "seal",
            12,
            0.2,
        ),
        Kind(
            "quantized",
            ("w8a8/model.safetensors", "w4a16/model.safetensors"),
            ("digits.safetensors",),
            (
                ("evaluate", "{folder}", *EVALUATE),
                ("export", "{folder}", *EXPORT),
            ),
            SAFETENSORS,
            "seal",
            6,
        ),
        Kind(
            "recipe",
            ("w8a8.toml", "w4a4.toml"),
            ("digits.safetensors",),
            (("quantize", "digits.safetensors", "--recipe", "{file}", *QUANTIZE),),
            TOML,
            "none",
            8,
            0.2,
        ),
        Kind(
            "training recipe",
            ("training.toml", "decoded.toml"),
            ("images", "digits.parquet"),
            (("train", "--recipe", "{file}", *IMAGES_TWICE, "--epochs", "2", "--out", "out/run"),),
            TOML,
            "none",
            8,
            0.2,
        ),
        Kind(
            "sidecar",
            ("trt/model.engine.json",),
            ("trt",),
            (
                ("inspect", "trt/model.engine", "--json", "out/inspection.json"),
                ("evaluate", "trt/model.engine", *EVALUATE),
                ("bench", "trt/model.engine", "--rounds", "10", "--batch", "1", "--json", "out/times.json"),
                ("check", "trt", *CHECK),
            ),
            (*JSON, *RESEALED, *RESEALED),
            "seal",
            9,
            0.2,
        ),
        Kind(
            "onnx",
            ("onnx/model.onnx", "onnx/model.float.onnx"),
            ("onnx",),
            (
                ("evaluate", "{file}", *EVALUATE),
                ("evaluate", "{file}", *EVALUATE),
                ("bench", "{file}", "--rounds", "10", "--batch", "1", "--json", "out/times.json"),
                ("inspect", "{file}", "--json", "out/inspection.json"),
                ("check", "onnx/model.onnx", *FLOAT, *CHECK),
            ),
            ONNX,
            "seal",
            12,
            0.3,
        ),
        Kind(
            "onnx alone",
            ("onnx/model.onnx", "onnx/model.float.onnx"),
            (),
            (
                ("evaluate", "{file}", *EVALUATE),
                ("bench", "{file}", "--rounds", "10", "--batch", "1", "--json", "out/times.json"),
            ),
            ONNX,
            "seal",
            6,
            0.3,
        ),
        Kind(
            "openvino",
            ("openvino/model.onnx",),
            ("openvino",),
            (
                ("evaluate", "{file}", *EVALUATE),
                ("inspect", "{file}", "--json", "out/inspection.json"),
            ),
            ONNX,
            "seal",
            4,
            0.3,
        ),
        Kind(
            "export.json",
            ("onnx/export.json",),
            ("onnx", "w8a8"),
            (
                ("check", "onnx", *CHECK),
                ("evaluate", "onnx/model.onnx", *EVALUATE),
                ("inspect", "onnx", "--json", "out/inspection.json"),
                ("bench", "onnx/model.onnx", "--rounds", "10", "--batch", "1", "--json", "out/times.json"),
            ),
            (*JSON, *RESEALED, *RESEALED),
            "seal",
            8,
            0.2,
        ),
        Kind(
            "report",
            ("report/report.json",),
            ("onnx",),
            (
                ("report", "report/report.json", *FACES),
                ("report", "report/report.json", *FACES),
                ("report", "--history", "report", "--out", "out/history"),
                ("check", "onnx/model.onnx", *FLOAT, "--against", "report/report.json", *CHECK),
            ),
            (*JSON, *RESEALED, *RESEALED),
            "seal",
            9,
            0.2,
        ),
        Kind(
            "image",
            ("images/3/0.png", "images/3/1.jpg"),
            ("images", "digits.safetensors", "w8a8"),
            (
                ("evaluate", "w8a8", "--data", "folder:images", "--save-logits", "out/logits.npz"),
                ("evaluate", "w8a8", "--data", "folder:images", "--skip-broken", "--save-logits", "out/logits.npz"),
                (
                    "quantize",
                    "digits.safetensors",
                    "--data",
                    "folder:images",
                    "--calib-images",
                    "30",
                    "--out",
                    "out/quantized",
                ),
            ),
            IMAGES,
            "none",
            7,
        ),
        Kind(
            "parquet",
            ("digits.parquet",),
            ("digits.safetensors", "w8a8"),
            (
                ("evaluate", "w8a8", "--data", "parquet:digits.parquet", "--save-logits", "out/logits.npz"),
                (
                    "evaluate",
                    "w8a8",
                    "--data",
                    "parquet:digits.parquet",
                    "--skip-broken",
                    "--save-logits",
                    "out/logits.npz",
                ),
                (
                    "quantize",
                    "digits.safetensors",
                    "--data",
                    "parquet:digits.parquet",
                    "--calib-images",
                    "30",
                    "--out",
                    "out/quantized",
                ),
            ),
            PARQUET,
            "none",
            7,
        ),
        Kind(
            "state",
            ("run/state.pt",),
            ("run", "training.toml", "images", "digits.parquet"),
            ((*TRAIN, "run", "--resume"),),
            PTH,
            "seal",
            7,
            resumes=True,
        ),
        Kind(
            "log",
            ("run/log.jsonl",),
            ("run", "training.toml", "images", "digits.parquet"),
            ((*TRAIN, "run", "--resume"),),
            JSON_LINES,
            "seal",
            4,
            0.3,
            resumes=True,
        ),
        Kind(
            "search.json",
            ("searched/search.json",),
            ("searched", "digits.safetensors"),
            (
                ("inspect", "searched", "--images", "2", "--json", "out/inspection.json"),
                ("evaluate", "searched", *EVALUATE),
                ("export", "searched", *EXPORT),
            ),
            (*JSON, *RESEALED),
            "seal",
            3,
            0.2,
        ),
        Kind(
            "categories",
            ("categories.json",),
            ("stimuli", "w8a8"),
            (("evaluate", "w8a8", *FEW, *SHAPES, "--json", "out/figures.json"),),
            JSON,
            "none",
            4,
            0.2,
        ),
        Kind(
            "stimulus",
            ("stimuli/d0-e1.png",),
            ("stimuli", "w8a8", "categories.json"),
            (("evaluate", "w8a8", *FEW, *SHAPES, "--json", "out/figures.json"),),
            IMAGES,
            "none",
            2,
        ),
        Kind(
            "list of images",
            ("list.txt",),
            ("images", "digits.safetensors"),
            (("quantize", "digits.safetensors", "--data", "list:list.txt", *QUANTIZE),),
            LISTS,
            "none",
            3,
        ),
        Kind(
            "quantized, mended",
            ("w8a8/model.safetensors", "w4a16/model.safetensors"),
            ("digits.safetensors",),
            (("evaluate", "{folder}", *EVALUATE), ("export", "{folder}", *EXPORT)),
            SAFETENSORS,
            "none",
            6,
            0.2,
            mend=mend_manifest,
        ),
        Kind(
            "onnx, mended",
            ("onnx/model.onnx", "onnx/model.float.onnx"),
            ("onnx",),
            (
                ("evaluate", "{file}", *EVALUATE),
                ("evaluate", "{file}", *EVALUATE),
                ("bench", "{file}", "--rounds", "10", "--batch", "1", "--json", "out/times.json"),
                ("inspect", "{file}", "--json", "out/inspection.json"),
                ("check", "onnx/model.onnx", *FLOAT, *CHECK),
            ),
            ONNX,
            "none",
            12,
            0.1,
            mend=mend_onnx,
        ),
        Kind(
            "openvino, mended",
            ("openvino/model.onnx",),
            ("openvino",),
            (
                ("evaluate", "{file}", *EVALUATE),
                ("inspect", "{file}", "--json", "out/inspection.json"),
            ),
            ONNX,
            "none",
            4,
            0.1,
            mend=mend_onnx,
        ),
        *(
            Kind(
                f"class names, {suffix}",
                (f"names.{suffix}",),
                ("images", "w8a8"),
                (("evaluate", "w8a8", "--data", "folder:images?classes={file}", *FEW, "--json", "out/figures.json"),),
                edits,
                "none",
                1,
            )
            for suffix, edits in (("txt", LISTS), ("json", JSON))
        ),
    )


KINDS = {kind.name: kind for kind in _kinds()}
