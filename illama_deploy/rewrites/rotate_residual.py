"""R1: rotate the residual stream, so that no channel of it is louder than others.

RMSNorm without weights commutes with rotations, so everything that writes the stream (patch embedding, class token,
position embedding, proj, fc2) is turned by R, and everything that reads it (qkv, fc1, fc3, and the head or what a
UperNet reads) back by Rᵀ. Norm weights are folded first, as `fold_norms` does.

Sources: Ashkboos et al., *SliceGPT* (arXiv 2401.15024) and *QuaRot* (arXiv 2404.00456).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..model.network import Network
from .fold_norms import FOLD_NORMS
from .hadamard import random_rotation
from .parts import linear
from .rewrite import Rewrite

__all__ = ["ROTATE_RESIDUAL"]


@torch.no_grad()
def _draw(model: Network, generator: torch.Generator) -> None:
    FOLD_NORMS.fold(model)
    rotation = random_rotation(model.config.dim, generator)
    structure = model.structure
    for name in structure.constants:
        stream = model.get_parameter(name)
        stream.copy_(stream.double() @ rotation)
    for name in structure.writes:
        rotate_outputs(cast(nn.Linear | nn.Conv2d, model.get_submodule(name)), rotation)
    for name in (name for read in structure.reads for name in read.linears):
        reader = linear(model, name)
        reader.weight.copy_(reader.weight.double() @ rotation)


def rotate_outputs(module: nn.Linear | nn.Conv2d, rotation: Tensor) -> None:
    """y becomes y R: weight Rᵀ W, bias b R."""
    turned = rotation.T @ module.weight.double().flatten(1)
    module.weight.copy_(turned.view(module.weight.shape))
    if module.bias is not None:
        module.bias.copy_(module.bias.double() @ rotation)


ROTATE_RESIDUAL = Rewrite("rotate_residual", draw=_draw)
