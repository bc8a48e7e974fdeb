"""What a rewrite is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.illama import Illama

__all__ = ["ChannelMaxima", "Rewrite"]

#: Largest magnitude of each channel of a Linear's input, float32 [in], by module name.
ChannelMaxima = dict[str, Tensor]


def _nothing(model: Illama) -> None:
    return None


@dataclass(frozen=True)
class Rewrite:
    """An exact change of a network, in place.

    Attributes:
        fold: changes values so that, with `restructure`, the function stays the same.
        restructure: changes what the modules compute; touches no value and may run on empty weights.
        balance: like `fold`, for a rewrite that needs to know the activations. Where it moves scale between
            activations and weights, it updates the maxima that it was given.
        draw: like `fold`, for a rewrite with a random choice, which it takes from the generator alone. It moves no
            scale between activations and weights, so maxima known before it are measured again after it.
    """

    name: str
    fold: Callable[[Illama], None] = _nothing
    restructure: Callable[[Illama], None] = _nothing
    balance: Callable[[Illama, ChannelMaxima], None] | None = None
    draw: Callable[[Illama, torch.Generator], None] | None = None
