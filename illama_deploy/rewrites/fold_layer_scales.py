"""Fold LayerScale into the layer before it: γ · (W x + b) = (diag(γ) W) x + γ · b.

Source: Touvron et al., *Going Deeper with Image Transformers* (arXiv 2103.17239), for LayerScale.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..model.network import Network
from .parts import linear
from .rewrite import Rewrite

__all__ = ["FOLD_LAYER_SCALES"]


def _scales(model: Network) -> Iterator[tuple[str, str, nn.Module]]:
    """Layer, name of what scales its output, and the module of that name; of those that are there still."""
    for block in model.structure.blocks:
        for write, name in zip(block.writes, block.scales, strict=bool(block.scales)):
            scale = model.get_submodule(name)
            if not isinstance(scale, nn.Identity):
                yield write, name, scale


@torch.no_grad()
def _fold(model: Network) -> None:
    for write, name, _ in _scales(model):
        layer, gamma = linear(model, write), model.get_parameter(f"{name}.gamma").double()
        layer.weight.copy_(layer.weight.double() * gamma[:, None])
        if layer.bias is not None:
            layer.bias.copy_(layer.bias.double() * gamma)


def _restructure(model: Network) -> None:
    for _, name, _ in list(_scales(model)):
        model.set_submodule(name, nn.Identity())


def _fits(model: Network) -> bool:
    return next(_scales(model), None) is not None


FOLD_LAYER_SCALES = Rewrite("fold_layer_scales", fits=_fits, needed=True, fold=_fold, restructure=_restructure)
