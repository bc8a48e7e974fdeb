"""Proof of integer execution, read from OpenVINO's execution graph on this CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...export.float_graph import SITE
from ...export.proof import KernelProof, LayerPrecision, required_precision
from ...formats import Format
from ...versions import need

__all__ = ["prove_openvino"]

GEMMS = frozenset({"FullyConnected", "MatMul", "Convolution"})
#: Layers that only hold, arrange or count.
BOOKKEEPING = frozenset(
    {
        "Const",
        "Input",
        "Output",
        "Reshape",
        "Transpose",
        "Gather",
        "ShapeOf",
        "StridedSlice",
        "Concatenation",
        "Broadcast",
    }
)
#: What OpenVINO appends to a GEMM whose rescaling it moved behind it.
_FUSED = "/DequantizationMultiply"
NAMES = {"i8": "int8", "u8": "uint8", "i4": "int4 weights", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def prove_openvino(path: Path, sites: Mapping[str, Format]) -> KernelProof:
    """Compile an exported file for this CPU and inspect its execution graph.

    Args:
        sites: the quantized sites and their formats.

    Raises:
        ExportError: a quantized GEMM does not run on an integer (or weight-only) kernel.
        RuntimeUnavailableError: OpenVINO is not installed, or too old.
    """
    need("openvino", install="pip install 'illama-deploy[openvino]'")
    import openvino as ov

    expected = {
        node.name or "": required_precision(sites[site])
        for node in ir.load(path).graph
        if (site := node.metadata_props.get(SITE, "")) in sites and node.op_type != "Relu"
    }
    compiled = ov.Core().compile_model(str(path), "CPU")
    # Kernels are chosen at the first inference.
    compiled({0: np.zeros([1, *(side.get_length() for side in compiled.input(0).partial_shape[1:])], np.float32)})
    layers: list[LayerPrecision] = []
    unnamed: list[int] = []
    nodes = compiled.get_runtime_model().get_ops()
    about: dict[str, Any]
    for node in sorted(nodes, key=lambda node: int(node.get_rt_info()["execOrder"].astype(str))):
        about = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        kind = about["layerType"]
        if kind in BOOKKEEPING:
            continue
        precision = NAMES.get(about["runtimePrecision"], about["runtimePrecision"])
        gemm, gemm_of = kind in GEMMS, None
        if gemm:
            precision = "int8" if precision == "uint8" else precision  # U8 activations with S8 weights
            sources = about.get("originalLayersNames", "").split(",")
            gemm_of = next((name for part in sources if (name := part.removesuffix(_FUSED)) in expected), None)
            if gemm_of is None and precision in expected.values():
                unnamed.append(len(layers))
        name = gemm_of or node.get_friendly_name()
        layers.append(LayerPrecision(name, f"{kind} {about['primitiveType']}", precision, gemm, gemm_of))
    # Fusion gave some GEMMs a name of its own; both graphs run in the same order.
    named = {layer.site for layer in layers}
    for position, name in zip(unnamed, [name for name in expected if name not in named], strict=False):
        layers[position] = replace(layers[position], name=name, site=name)
    return KernelProof(expected, tuple(layers)).demand("OpenVINO", path)
