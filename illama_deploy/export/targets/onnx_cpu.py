"""ONNX Runtime on CPUs.

Its integer GEMM kernels (VNNI, AMX) take U8 activations with S8 weights and nothing else: the same symmetric
integers are written with zero point 128. Biases go in as int32, which makes each Gemm a QGemm; a float bias
would keep it out of the integer kernels. Proven after each export (`..proof`).

Large batches run a few images at a time, so that activations stay in the cache: 1.1× to 1.3× faster at batch 16
and above than the whole batch at once, and no slower at batch 1 (docs/log.md).
"""

from __future__ import annotations

import onnx_ir as ir

from ...model.illama import Illama, IllamaConfig
from ..float_graph import build_float_graph
from ..passes import ActivationSpelling, DynamicIntegers, HoistQuantize, InsertQDQ, MicroBatch, RemoveDead
from .target import Target

__all__ = ["ONNX_CPU", "micro_batch"]

#: Of second-level cache for one activation. The best size was 4 images for T and 1 for B at 224 px, 8 for T at 32 px.
CACHE_BYTES = 1.65e6


def _build(network: Illama) -> ir.Model:
    model = build_float_graph(network)
    passes = ir.passes.Sequential(
        InsertQDQ(network, ActivationSpelling(unsigned=True, integer_bias=True)),
        DynamicIntegers(network),
        HoistQuantize(),
        RemoveDead(),
        MicroBatch(micro_batch(network.config)),
    )
    return passes(model).model


def micro_batch(config: IllamaConfig) -> int:
    """Images that run at a time: as many as fit the cache by their widest activation, in float32."""
    return max(1, int(CACHE_BYTES // (4 * config.tokens * config.hidden)))


ONNX_CPU = Target("onnx-cpu", "onnx", _build)
