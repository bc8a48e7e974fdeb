"""illama-deploy: a line for each (format, target)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from .case import Case, Inputs

#: (format, export target, runtime that runs it). Add a line for a row.
OURS = [
    ("W8A8", "onnx-cpu", "onnxruntime"),
    ("W8A8-dynamic", "onnx-cpu", "onnxruntime"),
    ("W4A8", "onnx-cpu", "onnxruntime"),
    ("W4A16-g64", "onnx-cpu", "onnxruntime"),
    ("W8A8", "openvino", "openvino"),
    ("W4A16-g64", "openvino", "openvino"),
    ("W8A8", "torch", "inductor"),
    ("W8A8-dynamic", "torch", "inductor"),
    ("W4A16-g64", "torch", "inductor"),
]


def make(format_: str, target: str, inputs: Inputs, folder: Path) -> Path:
    import illama_deploy

    # Peers were given these images, and no more of them; this holds the format's shipped recipe to it.
    indices = np.load(inputs.folder / "indices.npy").tolist()
    artifact = illama_deploy.quantize(
        inputs.checkpoint, format=format_, calib_images=len(indices), data=inputs.data, out=folder / "quantized",
        force=True,
    )  # fmt: skip
    assert artifact.manifest["data"]["indices"] == indices
    if target == "torch":  # the checkpoint itself is what runs
        from illama_deploy.quant.artifact import WEIGHTS

        return artifact.path / WEIGHTS
    return illama_deploy.export(artifact.path, target=target, out=folder / target, force=True).model


def make_float(inputs: Inputs, folder: Path) -> Path:
    """The float file that `export` writes for comparison: our graph without our integers."""
    import illama_deploy

    artifact = illama_deploy.quantize(inputs.checkpoint, data=inputs.data, out=folder / "quantized", force=True)
    exported = illama_deploy.export(artifact.path, out=folder / "onnx-cpu", force=True)
    assert exported.float_model is not None
    return exported.float_model


CASES = [
    Case(
        f"ours-{format_}-{target}", "**illama-deploy**", ("illama-deploy",),
        f"defaults{', group 64' if format_.endswith('-g64') else ''}, target `{target}`",
        format_.removesuffix("-g64"), runtime, partial(make, format_, target), ours=True,
    )
    for format_, target, runtime in OURS
] + [
    Case(
        "ours-float", "**illama-deploy**", ("illama-deploy",), "our float graph", "float32", "onnxruntime", make_float,
        ours=True,
    ),
]  # fmt: skip
