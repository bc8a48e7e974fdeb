"""R4: rotate the input of fc2, which is made by a product of two activations and so can carry nothing.

    fc2(p) = (p R) (W R)ᵀ,   p = silu(fc1 x) · fc3 x

R has blocks of a fixed Hadamard matrix, turned at run time. Random signs of the channels of p go into fc3.

Source: Ashkboos et al., *QuaRot* (arXiv 2404.00456), stage 1d.
"""

from __future__ import annotations

import torch

from ..model.illama import Illama, SwiGLU
from .online_rotation import OnlineRotation
from .rewrite import Rewrite
from .smooth import divide_hidden

__all__ = ["ROTATE_SWIGLU_ONLINE"]

#: Channels that are mixed with each other. Quantized directories rely on it: another size would need another name.
BLOCK = 64


def _rotation(mlp: SwiGLU) -> OnlineRotation:
    return OnlineRotation.of(mlp.fc2.in_features, BLOCK)


@torch.no_grad()
def _fold(model: Illama) -> None:
    for block in model.blocks:
        if not isinstance(block.mlp.rotate, OnlineRotation):
            weight = block.mlp.fc2.weight
            weight.copy_(_rotation(block.mlp)(weight.double()).float())


def _restructure(model: Illama) -> None:
    for block in model.blocks:
        block.mlp.rotate = _rotation(block.mlp)


def _draw(model: Illama, generator: torch.Generator) -> None:
    for block in model.blocks:
        signs = torch.randint(0, 2, (block.mlp.fc2.in_features,), generator=generator) * 2.0 - 1.0
        divide_hidden(block.mlp, signs.double())


ROTATE_SWIGLU_ONLINE = Rewrite("rotate_swiglu_online", fold=_fold, restructure=_restructure, draw=_draw)
