"""R4: rotate the input of fc2, which is made by a product of two activations and so can carry nothing.

    fc2(p) = (p R) (W R)ᵀ,   p = silu(fc1 x) · fc3 x

R has blocks of a fixed Hadamard matrix, turned at run time. Random signs of the channels of p go into fc3; behind a
GELU, or a norm, nothing can carry them, and R stays as it is.

Source: Ashkboos et al., *QuaRot* (arXiv 2404.00456), stage 1d.
"""

from __future__ import annotations

import torch

from ..model.network import Network
from .online_rotation import OnlineRotation
from .parts import linear
from .rewrite import Rewrite
from .smooth import divide_hidden

__all__ = ["ROTATE_SWIGLU_ONLINE"]

#: Channels that are mixed with each other. Quantized directories rely on it: another size would need another name.
BLOCK = 64


def _rotation(width: int) -> OnlineRotation:
    return OnlineRotation.of(width, BLOCK)


@torch.no_grad()
def _fold(model: Network) -> None:
    for block in model.structure.blocks:
        if not isinstance(model.get_submodule(block.ffn.rotate), OnlineRotation):
            second = linear(model, block.ffn.down)
            second.weight.copy_(_rotation(second.in_features)(second.weight.double()))


def _restructure(model: Network) -> None:
    for block in model.structure.blocks:
        model.set_submodule(block.ffn.rotate, _rotation(linear(model, block.ffn.down).in_features))


def _draw(model: Network, generator: torch.Generator) -> None:
    for pair in model.structure.pairs:
        width = linear(model, pair.second).in_features
        signs = torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1.0
        divide_hidden(model, pair, signs.double())


ROTATE_SWIGLU_ONLINE = Rewrite("rotate_swiglu_online", fold=_fold, restructure=_restructure, draw=_draw)
