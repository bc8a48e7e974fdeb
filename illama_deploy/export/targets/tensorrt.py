"""TensorRT 10 and 11, and TensorRT for RTX: strongly typed, so precision is what the ONNX file says.

Activations S8 with zero point 0, weights S8 per channel, biases in float (a DequantizeLinear of int32 is
refused), everything else float16 with the norms in float32. Q/DQ stand on GEMM inputs only.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...model.illama import Illama
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, HalfPrecision, HoistQuantize, InsertQDQ, RemoveDead
from .target import Missing, Target

__all__ = ["TENSORRT"]


def _passes(network: Illama) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False)
    return InsertQDQ(network, spelling), HoistQuantize(), RemoveDead(), HalfPrecision()


TENSORRT = Target(
    "tensorrt",
    "TensorRT",
    "trt",
    build_float_graph,
    _passes,
    float_format="float16",
    kernels={
        "W8A8": "S8×S8 GEMMs",
        "W4A16": "4-bit weights by blocks, unpacked inside the GEMM",
        "FP8": "FP8 GEMMs (from Ada on)",
    },
    missing={
        "W8A8-dynamic": Missing("it refuses DynamicQuantizeLinear and MatMulInteger", "W8A8", can_simulate=False),
        "W4A8": Missing("4-bit weights are weight-only there", "W4A16 or W8A8", can_simulate=False),
        "W4A4": Missing("4-bit activations exist as NVFP4 only", "W8A8 or W4A16", can_simulate=False),
        "W3A3": Missing("no GPU multiplies 3-bit activations", "W8A8 or W4A16", can_simulate=False),
        "W2A16": Missing("it reads no weights of 2 bits", "W4A16", can_simulate=False),
    },
)
