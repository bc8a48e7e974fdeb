"""Fold 1/sqrt(D) into the query rows of qkv; it commutes with the rotary embedding."""

from __future__ import annotations

import torch

from ..model.network import Network
from .parts import attentions, linear
from .rewrite import Rewrite

__all__ = ["FOLD_ATTENTION_SCALE"]


@torch.no_grad()
def _fold(model: Network) -> None:
    for parts, attention in attentions(model):
        qkv = linear(model, parts.qkv)
        queries = slice(0, attention.heads * attention.head_dim)
        for tensor in (qkv.weight, qkv.bias):
            tensor[queries] = tensor[queries].double() * attention.scale


def _restructure(model: Network) -> None:
    for _, attention in attentions(model):
        attention.scale = 1.0


FOLD_ATTENTION_SCALE = Rewrite("fold_attention_scale", fold=_fold, restructure=_restructure)
