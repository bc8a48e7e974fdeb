"""Round every weight to the nearest integer, one step size per output channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..affine import quantize, scale_of
from ..errors import RecipeError
from ..formats import IntType

__all__ = ["WEIGHT_CLIPS", "RoundedWeight", "nearest", "weight_clip"]

#: How the step size is chosen: keep the largest weight, or search the least squared error.
WEIGHT_CLIPS = ("minmax", "mse")
SHRINKS = torch.linspace(1.0, 0.5, 51)


def weight_clip(name: str) -> str:
    """Return `name` if it is a way to choose step sizes.

    Raises:
        RecipeError: it is none.
    """
    if name not in WEIGHT_CLIPS:
        raise RecipeError(f"There is no weight clip {name!r}.", hint=f"Use one of: {', '.join(WEIGHT_CLIPS)}.")
    return name


class RoundedWeight(NamedTuple):
    """integers int8 [out, ...], scale float32 [out]."""

    integers: Tensor
    scale: Tensor


def nearest(weight: Tensor, dtype: IntType, *, clip: str = "mse") -> RoundedWeight:
    """Quantize per output channel (axis 0).

    Args:
        weight: float32 [out, ...].
        clip: `minmax`, or `mse`: of 51 thresholds from the largest weight down to half of it, the one with the
            least squared error, channel by channel.

    Raises:
        RecipeError: no such `clip`.
    """
    weight_clip(clip)
    flat = weight.detach().float().flatten(1)
    largest = flat.abs().amax(1)
    best = scale_of(largest, dtype)
    if clip == "mse":
        least = torch.full_like(largest, torch.inf)
        for shrink in SHRINKS:
            scale = scale_of(largest * shrink, dtype)
            error = (quantize(flat, scale[:, None], dtype) * scale[:, None] - flat).square().sum(1)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, scale, best)
    integers = quantize(flat, best[:, None], dtype).to(torch.int8)
    return RoundedWeight(integers.view(weight.shape), best)
