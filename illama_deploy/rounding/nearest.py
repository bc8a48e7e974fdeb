"""Round every weight to the nearest integer, one step size per output channel or group of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..affine import quantize, scale_of
from ..errors import RecipeError
from ..formats import FloatType, NumberType
from .method import RoundedWeight, RoundingMethod

__all__ = ["NEAREST", "WEIGHT_CLIPS", "RoundedWeight", "nearest", "weight_clip"]

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


def nearest(weight: Tensor, dtype: NumberType, *, clip: str = "mse", group: int | None = None) -> RoundedWeight:
    """Quantize per output channel (axis 0), or per group of inputs within it.

    Args:
        weight: float32 [out, ...].
        clip: `minmax`, or `mse`: of 51 thresholds from the largest weight down to half of it, the one with the
            least squared error, channel by channel.
        group: consecutive inputs (of the flattened weight) that share a step size; it must divide them.

    Raises:
        RecipeError: no such `clip`.
    """
    weight_clip(clip)
    flat = weight.detach().float().flatten(1)
    rows = flat if group is None else flat.reshape(-1, group)
    scale = _step_sizes(rows, dtype, clip)
    integers = quantize(rows, scale[:, None], dtype)
    stored = torch.float8_e4m3fn if isinstance(dtype, FloatType) else torch.int8
    return RoundedWeight(integers.to(stored).view(weight.shape), scale if group is None else scale.view(len(flat), -1))


def _step_sizes(rows: Tensor, dtype: NumberType, clip: str) -> Tensor:
    largest = rows.abs().amax(1)
    best = scale_of(largest, dtype)
    if clip == "mse":
        least = torch.full_like(largest, torch.inf)
        for shrink in SHRINKS:
            scale = scale_of(largest * shrink, dtype)
            error = (quantize(rows, scale[:, None], dtype) * scale[:, None] - rows).square().sum(1)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, scale, best)
    return best


NEAREST = RoundingMethod(nearest)
