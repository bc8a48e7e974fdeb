"""ONNX Runtime on CPUs.

Its integer GEMM kernels (VNNI, AMX) take U8 activations with S8 weights and nothing else: the same symmetric
integers are written with zero point 128. Biases go in as int32, which makes each Gemm a QGemm; a float bias
would keep it out of the integer kernels. Proven after each export (`proof.py`).

Large batches run a few images at a time, so that activations stay in the cache: 1.1× to 1.3× faster at batch 16
and above than the whole batch at once, and no slower at batch 1 (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...environment import cpu_features
from ...export.passes import ActivationSpelling, DynamicIntegers, HoistQuantize, InsertQDQ, MicroBatch, RemoveDead
from ...export.proof import KernelProof
from ...formats import Format
from ...model.network import Network, NetworkConfig
from ...runtime import Runtime
from ...runtime.onnx_file import read_onnx
from ...versions import installed_too_old
from ..onnx_target import OnnxTarget
from ..target import Missing, Opening, TargetState
from .layer_times import layer_times
from .proof import prove_onnxruntime
from .runtime import OnnxRuntime

__all__ = ["TARGET", "OnnxCpu", "micro_batch"]

#: Of second-level cache for one activation. The best size was 4 images for T and 1 for B at 224 px, 8 for T at 32 px.
CACHE_BYTES = 1.65e6


def _passes(network: Network) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=True, integer_bias=True, unsigned_maps=True, output_integers=True)
    return InsertQDQ(network, spelling), DynamicIntegers(network), HoistQuantize(), RemoveDead()


def micro_batch(config: NetworkConfig) -> int:
    """Images that run at a time: as many as fit the cache by their widest activation, in float32."""
    return max(1, int(CACHE_BYTES // (4 * config.tokens * config.hidden)))


class OnnxCpu(OnnxTarget):
    """ONNX Runtime on this machine's CPU."""

    def prove(self, path: Path, sites: Mapping[str, Format]) -> KernelProof | None:
        return prove_onnxruntime(path, sites)

    def seconds(self, path: Path, layers: Sequence[Mapping[str, Any]]) -> list[float | None]:
        times = layer_times(path)
        return [times.get(layer["name"]) for layer in layers]

    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        return OnnxRuntime(name, opening.onnx or read_onnx(path), opening.threads)

    def states(self) -> list[TargetState]:
        vnni = {"avx512_vnni", "avx_vnni", "asimddp"} & set(cpu_features())
        slow = "runs, but without VNNI instructions: INT8 is exact here (U8×U8) and hardly faster than float"
        old = installed_too_old("onnxruntime") or installed_too_old("onnxruntime-gpu")
        return [TargetState(self.name, None, old or (None if vnni else slow))]


TARGET = OnnxCpu(
    name="onnx-cpu",
    runtime="ONNX Runtime on CPUs",
    folder="onnx",
    passes=_passes,
    batching=lambda network: [MicroBatch(micro_batch(network.config))],
    lowest={"onnxruntime": "1.24.1"},
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
)
