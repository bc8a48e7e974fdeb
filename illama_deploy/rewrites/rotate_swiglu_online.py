"""R4: rotate the input of fc2, which is made by a product of two activations and so can carry nothing.

    fc2(p) = (p R) (W R)ᵀ,   p = silu(fc1 x) · fc3 x

R has blocks of a fixed Hadamard matrix, turned at run time. Random signs of the channels of p go into fc3.

Source: Ashkboos et al., *QuaRot* (arXiv 2404.00456), stage 1d.
"""

from __future__ import annotations

import torch

from ..model.illama import Illama
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
def _fold(model: Illama) -> None:
    for pair in model.structure.pairs:
        if not isinstance(model.get_submodule(pair.place), OnlineRotation):
            second = linear(model, pair.second)
            second.weight.copy_(_rotation(second.in_features)(second.weight.double()).float())


def _restructure(model: Illama) -> None:
    for pair in model.structure.pairs:
        model.set_submodule(pair.place, _rotation(linear(model, pair.second).in_features))


def _draw(model: Illama, generator: torch.Generator) -> None:
    for pair in model.structure.pairs:
        width = linear(model, pair.second).in_features
        signs = torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1.0
        divide_hidden(model, pair, signs.double())


ROTATE_SWIGLU_ONLINE = Rewrite("rotate_swiglu_online", fold=_fold, restructure=_restructure, draw=_draw)
