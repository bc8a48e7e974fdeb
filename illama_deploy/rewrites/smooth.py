"""Move scale from activation channels into weights, where something exact can carry it (SmoothQuant).

    s_j = max|x_j|^α / max|w_j|^(1-α),   x_j / s_j,   w_j · s_j

Source: Xiao et al., *SmoothQuant* (arXiv 2211.10438), Eq. 4. Two places of this network carry s at no cost:

- `smooth_norms`: an RMSNorm's weight takes 1/s, the Linear layers that follow take s;
- `smooth_swiglu`: fc2(silu(fc1 x) · fc3 x) is linear in fc3, so fc3's rows take 1/s and fc2's columns s. The
  input of fc2, a product of two activations, is the known outlier site of SwiGLU networks.

α = 0.7 was the best of 0.3, 0.5 and 0.7 by logit SQNR in both places (docs/log.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.illama import Illama, RMSNorm
from .rewrite import ChannelMaxima, Rewrite

__all__ = ["SMOOTH_NORMS", "SMOOTH_SWIGLU"]

ALPHA = 0.7
SMALLEST = 1e-5  # a channel quieter than this is left where it is


def smoothing_scale(activation_max: Tensor, *weights: Tensor) -> Tensor:
    """s_j in float64 [in], of geometric mean 1, for inputs with these maxima and weights [out, in]."""
    weight_max = torch.stack([w.detach().abs().amax(0) for w in weights]).amax(0).double()
    activation_max = activation_max.double()
    scale = activation_max.clamp(min=SMALLEST) ** ALPHA / weight_max.clamp(min=SMALLEST) ** (1 - ALPHA)
    return scale / scale.log().mean().exp()


@torch.no_grad()
def _scale_columns(linear: nn.Linear, scale: Tensor) -> None:
    linear.weight.copy_((linear.weight.double() * scale).float())


@torch.no_grad()
def _smooth_norm(norm: RMSNorm, maxima: ChannelMaxima, followers: dict[str, nn.Linear]) -> None:
    scale = smoothing_scale(maxima[next(iter(followers))], *(linear.weight for linear in followers.values()))
    norm.weight.copy_((norm.weight.double() / scale).float())
    for name, linear in followers.items():
        _scale_columns(linear, scale)
        maxima[name] = (maxima[name] / scale).float()


def _smooth_norms(model: Illama, maxima: ChannelMaxima) -> None:
    for i, block in enumerate(model.blocks):
        _smooth_norm(block.norm1, maxima, {f"blocks.{i}.attn.qkv": block.attn.qkv})
        _smooth_norm(block.norm2, maxima, {f"blocks.{i}.mlp.fc1": block.mlp.fc1, f"blocks.{i}.mlp.fc3": block.mlp.fc3})
    _smooth_norm(model.norm, maxima, {"head": model.head})


@torch.no_grad()
def _smooth_swiglu(model: Illama, maxima: ChannelMaxima) -> None:
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}.mlp.fc2"
        scale = smoothing_scale(maxima[name], block.mlp.fc2.weight)
        block.mlp.fc3.weight.copy_((block.mlp.fc3.weight.double() / scale[:, None]).float())
        _scale_columns(block.mlp.fc2, scale)
        maxima[name] = (maxima[name] / scale).float()


SMOOTH_NORMS = Rewrite("smooth_norms", balance=_smooth_norms)
SMOOTH_SWIGLU = Rewrite("smooth_swiglu", balance=_smooth_swiglu)
