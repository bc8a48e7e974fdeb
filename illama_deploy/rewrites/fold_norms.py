"""Fold RMSNorm weights into the Linear layers that follow: (x/rms · g) Wᵀ = (x/rms) (W diag(g))ᵀ."""

from __future__ import annotations

import torch
from torch import nn

from ..model.illama import Illama, RMSNorm
from .rewrite import Rewrite

__all__ = ["FOLD_NORMS"]


@torch.no_grad()
def _fold_one(norm: RMSNorm, *followers: nn.Linear) -> None:
    for linear in followers:
        # In float64, so that the product is rounded once.
        linear.weight.copy_((linear.weight.double() * norm.weight.double()).float())
    norm.weight.fill_(1.0)


def _fold(model: Illama) -> None:
    for block in model.blocks:
        _fold_one(block.norm1, block.attn.qkv)
        _fold_one(block.norm2, block.mlp.fc1, block.mlp.fc3)
    for _, norm, read in model.reads():
        _fold_one(norm, read)


FOLD_NORMS = Rewrite("fold_norms", fold=_fold)
