"""Fold each BatchNorm of a UperNet into the convolution before it:

(W x - μ) · g/σ + β = (g/σ · W) x + (β - μ · g/σ)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..model.network import Network
from ..model.upernet import ConvNormReLU, UpNormReLU
from .rewrite import Rewrite

__all__ = ["FOLD_BATCH_NORMS"]


def _pairs(model: Network) -> Iterator[tuple[ConvNormReLU | UpNormReLU, nn.Conv2d | nn.ConvTranspose2d]]:
    for module in model.modules():
        if isinstance(module, ConvNormReLU | UpNormReLU):
            yield module, module.conv


@torch.no_grad()
def _fold(model: Network) -> None:
    for module, conv in _pairs(model):
        norm = module.get_submodule("norm")
        if not isinstance(norm, nn.BatchNorm2d):  # folded already
            continue
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        # Output channels are the second axis of a transposed convolution.
        shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
        conv.weight.copy_(conv.weight.double() * scale.view(shape))
        shift = norm.bias.double() - norm.running_mean.double() * scale
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype))


def _restructure(model: Network) -> None:
    for module, conv in _pairs(model):
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
        module.set_submodule("norm", nn.Identity())


def _fits(model: Network) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


FOLD_BATCH_NORMS = Rewrite("fold_batch_norms", fits=_fits, needed=True, fold=_fold, restructure=_restructure)
