"""Fold RMSNorm weights into the Linear layers that follow: (x/rms · g) Wᵀ = (x/rms) (W diag(g))ᵀ."""

from __future__ import annotations

import torch

from ..model.illama import Illama
from .parts import norm_and_readers
from .rewrite import Rewrite

__all__ = ["FOLD_NORMS"]


@torch.no_grad()
def _fold(model: Illama) -> None:
    for read in model.structure.reads:
        norm, readers = norm_and_readers(model, read)
        for linear in readers.values():
            # In float64, so that the product is rounded once.
            linear.weight.copy_((linear.weight.double() * norm.weight.double()).float())
        norm.weight.fill_(1.0)


FOLD_NORMS = Rewrite("fold_norms", fold=_fold)
