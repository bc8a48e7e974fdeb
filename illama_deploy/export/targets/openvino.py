"""OpenVINO on CPUs: S8 Q/DQ on the inputs of linear layers and of the patch embedding only, everything else in the
precision that the runtime is told (bfloat16 where the CPU has it), tokens as [B, S, E] (see `..batch_major`).
"""

from __future__ import annotations

import onnx_ir as ir

from ...model.illama import Illama
from ..batch_major import build_batch_major_graph
from ..passes import ActivationSpelling, InsertQDQ, RemoveDead
from .target import Target

__all__ = ["OPENVINO"]


def _build(network: Illama) -> ir.Model:
    model = build_batch_major_graph(network)
    passes = ir.passes.Sequential(
        InsertQDQ(network, ActivationSpelling(unsigned=False, integer_bias=False)), RemoveDead()
    )
    return passes(model).model


OPENVINO = Target("openvino", "openvino", _build)
