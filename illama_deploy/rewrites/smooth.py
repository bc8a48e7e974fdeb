"""Move scale from activation channels into weights, where something exact can carry it (SmoothQuant).

    s_j = max|x_j|^α / max|w_j|^(1-α),   x_j / s_j,   w_j · s_j

Source: Xiao et al., *SmoothQuant* (arXiv 2211.10438), Eq. 4. Two places of this network carry s at no cost:

- `smooth_norms`: an RMSNorm's weight takes 1/s, the Linear layers that follow take s;
- `smooth_swiglu`: fc2(silu(fc1 x) · fc3 x) is linear in fc3, so fc3's rows take 1/s and fc2's columns s. The
  input of fc2, a product of two activations, is the known outlier site of SwiGLU networks.

α = 0.7 was the best of 0.3, 0.5 and 0.7 by logit SQNR in both places (docs/log.md); `search_alpha` searches it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..model.network import Network
from ..model.norm import RMSNorm
from ..model.structure import ScalePair
from .online_rotation import unrotated
from .parts import linear, norm_and_readers
from .rewrite import Observations, Rewrite

__all__ = ["SMOOTH_NORMS", "SMOOTH_SWIGLU", "divide_hidden", "divide_norm", "smoothing_scale"]

ALPHA = 0.7
SMALLEST = 1e-5  # a channel quieter than this is left where it is


def smoothing_scale(activation_max: Tensor, *weights: Tensor, alpha: float = ALPHA) -> Tensor:
    """s_j in float64 [in], of geometric mean 1, for inputs with these maxima and weights [out, in]."""
    weight_max = torch.stack([w.detach().abs().amax(0) for w in weights]).amax(0).double()
    activation_max = activation_max.double()
    scale = activation_max.clamp(min=SMALLEST) ** alpha / weight_max.clamp(min=SMALLEST) ** (1 - alpha)
    return scale / scale.log().mean().exp()


@torch.no_grad()
def divide_norm(norm: RMSNorm, followers: Iterable[nn.Linear], scale: Tensor) -> None:
    """Divide what a norm gives by scale, float64 [E], and multiply it into the columns of those that read it."""
    norm.weight.copy_(norm.weight.double() / scale)
    for reader in followers:
        reader.weight.copy_(reader.weight.double() * scale)


@torch.no_grad()
def divide_hidden(model: Network, pair: ScalePair, scale: Tensor) -> None:
    """Divide what the first layer of a pair puts out by scale, float64 [hidden], and multiply it into the second,
    rotated or not."""
    first, second, rotate = linear(model, pair.first), linear(model, pair.second), model.get_submodule(pair.place)
    first.weight.copy_(first.weight.double() / scale[:, None])
    if first.bias is not None:
        first.bias.copy_(first.bias.double() / scale)
    second.weight.copy_(rotate(unrotated(rotate, second.weight) * scale))


def _smooth_norms(model: Network, observations: Observations) -> None:
    for read in model.structure.reads:
        norm, readers = norm_and_readers(model, read)
        scale = smoothing_scale(observations.maxima(read.place), *(linear.weight for linear in readers.values()))
        divide_norm(norm, readers.values(), scale)
        observations.divided(read.place, scale)


def _smooth_swiglu(model: Network, observations: Observations) -> None:
    for pair in model.structure.pairs:
        weight = unrotated(model.get_submodule(pair.place), linear(model, pair.second).weight)
        scale = smoothing_scale(observations.maxima(pair.place), weight)
        divide_hidden(model, pair, scale)
        observations.divided(pair.place, scale)


SMOOTH_NORMS = Rewrite("smooth_norms", balance=_smooth_norms)
SMOOTH_SWIGLU = Rewrite("smooth_swiglu", balance=_smooth_swiglu)
