"""Fold norms' weights into the Linear layers that follow: (x/rms · g) Wᵀ = (x/rms) (W diag(g))ᵀ. Where a LayerNorm is
left (see `centre_stream`), what it adds goes into their biases."""

from __future__ import annotations

import torch
from torch import nn

from ..model.network import Network
from .centre_stream import add_shift
from .parts import norm_and_readers
from .rewrite import Rewrite

__all__ = ["FOLD_NORMS"]


@torch.no_grad()
def _fold(model: Network) -> None:
    for read in (*model.structure.reads, *model.structure.other_reads):
        norm, readers = norm_and_readers(model, read)
        for linear in readers.values():
            if isinstance(norm, nn.LayerNorm):
                add_shift(linear, norm.bias.double())
            # In float64, so that the product is rounded once.
            linear.weight.copy_(linear.weight.double() * norm.weight.double())
        norm.weight.fill_(1.0)
        if isinstance(norm, nn.LayerNorm):
            norm.bias.zero_()


FOLD_NORMS = Rewrite("fold_norms", fold=_fold)
