"""ONNX Runtime on CPUs.

Its integer GEMM kernels (VNNI, AMX) take U8 activations with S8 weights and nothing else: the same symmetric
integers are written with zero point 128. Biases go in as int32, which makes each Gemm a QGemm; a float bias
would keep it out of the integer kernels. Proven after each export (`..proof`).
"""

from __future__ import annotations

import onnx_ir as ir

from ...model.illama import Illama
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, HoistQuantize, InsertQDQ, RemoveDead
from .target import Target

__all__ = ["ONNX_CPU"]


def _build(network: Illama) -> ir.Model:
    model = build_float_graph(network)
    passes = ir.passes.Sequential(
        InsertQDQ(network, ActivationSpelling(unsigned=True, integer_bias=True)), HoistQuantize(), RemoveDead()
    )
    return passes(model).model


ONNX_CPU = Target("onnx-cpu", "onnx", _build)
