"""ONNX Runtime's CUDA provider: float16 around, norms in float32. It has no integer GEMMs, so what pays there is
half precision, and weights of 4 bits (MatMulNBits) where memory counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...model.illama import Illama
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, HalfPrecision, HoistQuantize, InsertQDQ, RemoveDead
from .target import Missing, Target, lowest

__all__ = ["ONNX_CUDA"]


def _passes(network: Illama) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False)
    return InsertQDQ(network, spelling), HoistQuantize(), RemoveDead(), HalfPrecision()


_INTEGER = "its GEMMs multiply no integers"
_NEAREST = "W4A16, or float16 (--float-only)"

ONNX_CUDA = Target(
    "onnx-cuda",
    "ONNX Runtime on CUDA",
    "onnx-cuda",
    build_float_graph,
    _passes,
    float_format="float16",
    lowest=lowest("onnxruntime"),
    kernels={"W4A16": "MatMulNBits"},
    missing={
        "W8A8": Missing(_INTEGER, _NEAREST),
        "W8A8-dynamic": Missing(_INTEGER, _NEAREST, can_simulate=False),
        "W4A8": Missing(_INTEGER, _NEAREST),
        "W4A4": Missing(_INTEGER, _NEAREST),
        "W3A3": Missing(_INTEGER, _NEAREST),
        "W2A16": Missing("weights of 2 bits are stored in 4", "W4A16"),
        "FP8": Missing("its GEMMs multiply no FP8", _NEAREST),
    },
)
