"""NVIDIA ModelOpt's ONNX quantizer, run by ONNX Runtime's CPU kernels (which it does not aim at)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from .case import Case, Inputs

#: Without a GPU its search runs in numpy, and on all images had not ended after seven minutes.
FEW = 32
HEAD = "node_linear_60"


def describe(mode: str, method: str) -> str:
    return (
        f"ONNX {mode}"
        + (", block 64" if mode == "int4" else "")
        + (f", head in float, {FEW} images, {method}" if "awq" in method else f", {method}")
    )


def make(mode: str, method: str, inputs: Inputs, folder: Path) -> Path:
    from modelopt.onnx.quantization import quantize

    images = np.load(inputs.calibration)
    options = {"block_size": 64} if mode == "int4" else {}
    if "awq" in method:
        images = images[:FEW]
        options["nodes_to_exclude"] = [HEAD]  # it takes blocks along the wrong axis of a Gemm's transposed weight
    quantize(
        str(inputs.onnx), quantize_mode=mode, calibration_method=method, calibration_eps=["cpu"],
        calibration_data=images, output_path=str(folder / "model.onnx"),
        high_precision_dtype="fp32", log_level="WARNING", **options,
    )  # fmt: skip
    return folder / "model.onnx"


CASES = [
    Case(
        f"modelopt-{mode}-{method}", "NVIDIA ModelOpt", ("nvidia-modelopt",), describe(mode, method), format_,
        "onnxruntime", partial(make, mode, method), python="modelopt", family="modelopt int8" if mode == "int8" else "",
    )
    for mode, method, format_ in (
        ("int8", "max", "W8A8"), ("int8", "entropy", "W8A8"),
        ("int4", "rtn_dq", "W4A16"), ("int4", "awq_lite", "W4A16"), ("int4", "awq_clip", "W4A16"),
    )
]  # fmt: skip
