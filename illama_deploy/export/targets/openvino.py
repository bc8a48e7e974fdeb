"""OpenVINO on CPUs: S8 Q/DQ on the inputs of linear layers and of the patch embedding only, everything else in the
precision that the runtime is told (bfloat16 where the CPU has it), tokens as [B, S, E] (see `..batch_major`).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...model.illama import Illama
from ..batch_major import build_batch_major_graph
from ..passes import ActivationSpelling, InsertQDQ, RemoveDead
from ..proofs import prove_openvino
from .target import Missing, Target, lowest

__all__ = ["OPENVINO"]


def _passes(network: Illama) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False, unsigned_maps=True)
    return InsertQDQ(network, spelling), RemoveDead()


OPENVINO = Target(
    "openvino",
    "OpenVINO on CPUs",
    "openvino",
    build_batch_major_graph,
    _passes,
    lowest=lowest("openvino", "onnxruntime"),
    kernels={
        "W8A8": "S8×S8 integer GEMMs",
        "W4A8": "4-bit file, S8×S8 integer GEMMs",
        "W4A16": "4-bit weights, unpacked inside the GEMM",
    },
    missing={
        "W8A8-dynamic": Missing("it takes no step size for each token from a file", "W8A8", can_simulate=False),
        "W4A4": Missing("no CPU multiplies 4-bit activations", "W4A8"),
        "W3A3": Missing("no CPU multiplies 3-bit activations", "W4A8"),
        "W2A16": Missing("weights of 2 bits are stored in 4", "W4A16"),
        "FP8": Missing("no CPU multiplies FP8", "W8A8", can_simulate=False),
    },
    prove=prove_openvino,
)
