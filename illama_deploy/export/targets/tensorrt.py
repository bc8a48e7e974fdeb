"""TensorRT 10 and 11, and TensorRT for RTX: strongly typed, so precision is what the ONNX file says.

Activations S8 with zero point 0, weights S8 per channel, biases in float (a DequantizeLinear of int32 is
refused), everything else float16 with the norms in float32. Q/DQ stand on GEMM inputs only.
"""

from __future__ import annotations

import onnx_ir as ir

from ...model.illama import Illama
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, HalfPrecision, HoistQuantize, InsertQDQ, RemoveDead
from .target import Target

__all__ = ["TENSORRT"]


def _build(network: Illama) -> ir.Model:
    model = build_float_graph(network)
    passes = ir.passes.Sequential(
        InsertQDQ(network, ActivationSpelling(unsigned=False, integer_bias=False)),
        HoistQuantize(),
        RemoveDead(),
        HalfPrecision(),
    )
    return passes(model).model


TENSORRT = Target("tensorrt", "trt", _build)
