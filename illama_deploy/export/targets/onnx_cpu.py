"""ONNX Runtime on CPUs.

Its integer GEMM kernels (VNNI, AMX) take U8 activations with S8 weights and nothing else: the same symmetric
integers are written with zero point 128. Biases go in as int32, which makes each Gemm a QGemm; a float bias
would keep it out of the integer kernels. Proven after each export (`..proofs`).

Large batches run a few images at a time, so that activations stay in the cache: 1.1× to 1.3× faster at batch 16
and above than the whole batch at once, and no slower at batch 1 (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...model.illama import Illama, IllamaConfig
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, DynamicIntegers, HoistQuantize, InsertQDQ, MicroBatch, RemoveDead
from ..proofs import prove_onnxruntime
from .target import Missing, Target, lowest

__all__ = ["ONNX_CPU", "micro_batch"]

#: Of second-level cache for one activation. The best size was 4 images for T and 1 for B at 224 px, 8 for T at 32 px.
CACHE_BYTES = 1.65e6


def _passes(network: Illama) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=True, integer_bias=True, unsigned_maps=True, output_integers=True)
    return InsertQDQ(network, spelling), DynamicIntegers(network), HoistQuantize(), RemoveDead()


def micro_batch(config: IllamaConfig) -> int:
    """Images that run at a time: as many as fit the cache by their widest activation, in float32."""
    return max(1, int(CACHE_BYTES // (4 * config.tokens * config.hidden)))


ONNX_CPU = Target(
    "onnx-cpu",
    "ONNX Runtime on CPUs",
    "onnx",
    build_float_graph,
    _passes,
    batching=lambda network: [MicroBatch(micro_batch(network.config))],
    lowest=lowest("onnxruntime"),
    kernels={
        "W8A8": "U8×S8 integer GEMMs",
        "W8A8-dynamic": "U8×S8 integer GEMMs, a step size for each token",
        "W4A8": "4-bit file, U8×S8 integer GEMMs",
        "W4A16": "MatMulNBits",
    },
    missing={
        "W4A4": Missing("no CPU multiplies 4-bit activations", "W4A8"),
        "W3A3": Missing("no CPU multiplies 3-bit activations", "W4A8"),
        "W2A16": Missing("weights of 2 bits are stored in 4", "W4A16"),
        "FP8": Missing("no CPU multiplies FP8", "W8A8"),
    },
    prove=prove_onnxruntime,
)
