"""Move scale from activation channels into weights, where something exact can carry it (SmoothQuant).

    s_j = max|x_j|^α / max|w_j|^(1-α),   x_j / s_j,   w_j · s_j

Source: Xiao et al., *SmoothQuant* (arXiv 2211.10438), Eq. 4. Two places of this network carry s at no cost:

- `smooth_norms`: an RMSNorm's weight takes 1/s, the Linear layers that follow take s;
- `smooth_swiglu`: fc2(silu(fc1 x) · fc3 x) is linear in fc3, so fc3's rows take 1/s and fc2's columns s. The
  input of fc2, a product of two activations, is the known outlier site of SwiGLU networks.

α = 0.7 was the best of 0.3, 0.5 and 0.7 by logit SQNR in both places (docs/log.md); `search_alpha` searches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..model.illama import Illama, RMSNorm, SwiGLU
from .online_rotation import unrotated
from .rewrite import Observations, Rewrite

__all__ = ["SMOOTH_NORMS", "SMOOTH_SWIGLU", "divide_hidden", "divide_norm", "normed_linears", "smoothing_scale"]

ALPHA = 0.7
SMALLEST = 1e-5  # a channel quieter than this is left where it is


def smoothing_scale(activation_max: Tensor, *weights: Tensor, alpha: float = ALPHA) -> Tensor:
    """s_j in float64 [in], of geometric mean 1, for inputs with these maxima and weights [out, in]."""
    weight_max = torch.stack([w.detach().abs().amax(0) for w in weights]).amax(0).double()
    activation_max = activation_max.double()
    scale = activation_max.clamp(min=SMALLEST) ** alpha / weight_max.clamp(min=SMALLEST) ** (1 - alpha)
    return scale / scale.log().mean().exp()


def normed_linears(model: Illama) -> Iterator[tuple[str, RMSNorm, dict[str, nn.Linear]]]:
    """Every norm, with the place behind it and the Linear layers that read it, by name."""
    for i, block in enumerate(model.blocks):
        yield f"blocks.{i}.attn.qkv", block.norm1, {f"blocks.{i}.attn.qkv": block.attn.qkv}
        ffn = {f"blocks.{i}.mlp.fc1": block.mlp.fc1, f"blocks.{i}.mlp.fc3": block.mlp.fc3}
        yield f"blocks.{i}.mlp.fc1", block.norm2, ffn
    for name, norm, read in model.reads():
        yield name, norm, {name: read}


@torch.no_grad()
def divide_norm(norm: RMSNorm, followers: Iterable[nn.Linear], scale: Tensor) -> None:
    """Divide what a norm gives by scale, float64 [E], and multiply it into the columns of those that read it."""
    norm.weight.copy_((norm.weight.double() / scale).float())
    for linear in followers:
        linear.weight.copy_((linear.weight.double() * scale).float())


@torch.no_grad()
def divide_hidden(mlp: SwiGLU, scale: Tensor) -> None:
    """Divide the product silu(fc1 x) · fc3 x by scale, float64 [hidden], and multiply it into fc2, rotated or not."""
    mlp.fc3.weight.copy_((mlp.fc3.weight.double() / scale[:, None]).float())
    mlp.fc2.weight.copy_(mlp.rotate(unrotated(mlp.rotate, mlp.fc2.weight) * scale).float())


def _smooth_norms(model: Illama, observations: Observations) -> None:
    for place, norm, followers in normed_linears(model):
        scale = smoothing_scale(observations.maxima(place), *(linear.weight for linear in followers.values()))
        divide_norm(norm, followers.values(), scale)
        observations.divided(place, scale)


def _smooth_swiglu(model: Illama, observations: Observations) -> None:
    for i, block in enumerate(model.blocks):
        place = f"blocks.{i}.mlp.rotate"
        scale = smoothing_scale(observations.maxima(place), unrotated(block.mlp.rotate, block.mlp.fc2.weight))
        divide_hidden(block.mlp, scale)
        observations.divided(place, scale)


SMOOTH_NORMS = Rewrite("smooth_norms", balance=_smooth_norms)
SMOOTH_SWIGLU = Rewrite("smooth_swiglu", balance=_smooth_swiglu)
