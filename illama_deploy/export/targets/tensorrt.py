"""TensorRT 10 and 11, and TensorRT for RTX: strongly typed, so precision is what the ONNX file says.

Activations S8 with zero point 0, weights S8 per channel, biases in float (a DequantizeLinear of int32 is
refused), everything else float16 with the norms in float32. Q/DQ stand on GEMM inputs only.

It multiplies no 4-bit integers by 8-bit ones: of W4A8 it takes the weights alone, with float16 activations. INT4 is
read by blocks of 128 or 64 inputs (NVIDIA's page on quantization schemes), so a channel's step size is repeated for
each of its blocks; a weight that neither cuts into several blocks is stored as INT8. As one block, or per channel,
INT4 does build (TensorRT for RTX 1.7.1), but unpacked: the engine holds float16 weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...model.illama import Illama
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, HalfPrecision, HoistQuantize, InsertQDQ, RemoveDead
from .target import Missing, Target, lowest

__all__ = ["TENSORRT"]


def _passes(network: Illama) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False, blocks=(128, 64))
    return InsertQDQ(network, spelling), HoistQuantize(), RemoveDead(), HalfPrecision()


TENSORRT = Target(
    "tensorrt",
    "TensorRT",
    "trt",
    build_float_graph,
    _passes,
    float_format="float16",
    lowest=lowest("tensorrt", "tensorrt-rtx", "onnxruntime"),
    kernels={
        "W8A8": "S8×S8 GEMMs",
        "W4A16": "4-bit weights by blocks, unpacked inside the GEMM",
        "W4A8": "S8×S8",  # what is no GEMM of weights: products of attention, convolutions
        "FP8": "FP8 GEMMs (from Ada on)",
    },
    weight_only={"W4A8": "INT4 weight-only with float16 activations"},
    missing={
        "W8A8-dynamic": Missing("it refuses DynamicQuantizeLinear and MatMulInteger", "W8A8", can_simulate=False),
        "W4A4": Missing("4-bit activations exist as NVFP4 only", "W8A8 or W4A16", can_simulate=False),
        "W3A3": Missing("no GPU multiplies 3-bit activations", "W8A8 or W4A16", can_simulate=False),
        "W2A16": Missing("it reads no weights of 2 bits", "W4A16", can_simulate=False),
    },
)
