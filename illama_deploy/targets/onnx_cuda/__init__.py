"""ONNX Runtime's CUDA provider: float16 around, norms in float32. It has no integer GEMMs, so what pays there is
half precision, and weights of 4 bits (MatMulNBits) where memory counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ...environment import cuda_problem
from ...export.passes import ActivationSpelling, HalfPrecision, HoistQuantize, InsertQDQ, RemoveDead
from ...model.network import Network
from ...runtime import Runtime
from ...runtime.onnx_file import read_onnx
from ...versions import installed_too_old
from ..onnx_cpu.runtime import OnnxRuntime
from ..onnx_target import OnnxTarget
from ..target import Missing, Opening, TargetState

__all__ = ["TARGET", "OnnxCuda"]


def _passes(network: Network) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False)
    return InsertQDQ(network, spelling), HoistQuantize(), RemoveDead(), HalfPrecision()


_INTEGER = "its GEMMs multiply no integers"
_NEAREST, _FLOAT = "W4A16", "float16"


class OnnxCuda(OnnxTarget):
    """ONNX Runtime on a GPU of this machine."""

    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        return OnnxRuntime(name, opening.onnx or read_onnx(path), opening.threads, device="cuda")

    def states(self) -> list[TargetState]:
        import onnxruntime as ort

        provided = "CUDAExecutionProvider" in ort.get_available_providers()
        why = installed_too_old("onnxruntime-gpu") or cuda_problem()
        return [TargetState(self.name, None, why or (None if provided else "this onnxruntime has no CUDA provider"))]


TARGET = OnnxCuda(
    name="onnx-cuda",
    runtime="ONNX Runtime on CUDA",
    folder="onnx-cuda",
    passes=_passes,
    float_format=_FLOAT,
    lowest={"onnxruntime": "1.24.1"},
    kernels={"W4A16": "MatMulNBits"},
    missing={
        "W8A8": Missing(_INTEGER, _NEAREST, or_float=_FLOAT),
        "W8A8-dynamic": Missing(_INTEGER, _NEAREST, can_simulate=False, or_float=_FLOAT),
        "W4A8": Missing(_INTEGER, _NEAREST, or_float=_FLOAT),
        "W4A4": Missing(_INTEGER, _NEAREST, or_float=_FLOAT),
        "W3A3": Missing(_INTEGER, _NEAREST, or_float=_FLOAT),
        "W2A16": Missing("weights of 2 bits are stored in 4", "W4A16"),
        "FP8": Missing("its GEMMs multiply no FP8", _NEAREST, or_float=_FLOAT),
    },
)
