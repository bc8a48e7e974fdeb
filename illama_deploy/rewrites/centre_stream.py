"""Centre the residual stream: a LayerNorm of a vector of mean zero is an RMSNorm.

    LayerNorm(x) = (x - mean x) / sqrt(var x + ε) · g + β = RMSNorm(x) · g + β    where mean x = 0

With C = I - 1/E, everything that writes the stream writes C y instead of y, which LayerNorm takes away anyhow; g stays
with the RMSNorm, and β goes into the biases of the layers behind it (W (n + β) + b = W n + (W β + b)). From here on a
pre-norm ViT is a LLaMA-shaped network, and what is exact for one is exact for the other: folded norms, rotations.

Source: Ashkboos et al., *SliceGPT* (arXiv 2401.15024), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from ..model.network import Network
from ..model.norm import RMSNorm
from ..model.structure import Read
from .parts import linear
from .rewrite import Rewrite

__all__ = ["CENTRE_STREAM", "add_shift"]


def _layer_norms(model: Network) -> Iterator[tuple[Read, nn.LayerNorm]]:
    """LayerNorms of the stream, and the one in front of the first block."""
    structure = model.structure
    entry = structure.embedding.entry
    for read in (*structure.reads, *(() if entry is None else (entry,))):
        norm = model.get_submodule(read.norm)
        if isinstance(norm, nn.LayerNorm):
            yield read, norm


def centred(values: Tensor, axis: int) -> Tensor:
    """Without the mean along an axis; float64."""
    values = values.double()
    return values - values.mean(axis, keepdim=True)


def _require_bias(layer: nn.Linear) -> None:
    if cast(nn.Parameter | None, layer.bias) is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features))


@torch.no_grad()
def add_shift(layer: nn.Linear, shift: Tensor) -> None:
    """Add `shift`, float64 [in], to what a layer reads, by its bias."""
    _require_bias(layer)
    layer.bias.copy_(layer.bias.double() + layer.weight.double() @ shift)


@torch.no_grad()
def _fold(model: Network) -> None:
    structure = model.structure
    for name in structure.embedding.constants:
        parameter = model.get_parameter(name)
        parameter.copy_(centred(parameter, -1))
    for read, norm in _layer_norms(model):
        for name in read.linears:
            add_shift(linear(model, name), norm.bias.double())
        norm.bias.zero_()
    entry = structure.embedding.entry
    if entry is not None:  # before the layer behind it is centred, which writes the stream
        scale = model.get_parameter(f"{entry.norm}.weight")
        for name in entry.linears:
            linear(model, name).weight.mul_(scale)
        scale.fill_(1.0)
    for name in dict.fromkeys((structure.embedding.patches, *structure.writes)):
        layer = cast(nn.Linear | nn.Conv2d, model.get_submodule(name))
        layer.weight.copy_(centred(layer.weight, 0))
        if layer.bias is not None:
            layer.bias.copy_(centred(layer.bias, 0))


def _restructure(model: Network) -> None:
    for read, norm in list(_layer_norms(model)):
        for name in read.linears:
            _require_bias(linear(model, name))
        replaced = RMSNorm(norm.normalized_shape[0], norm.eps)
        replaced.weight = norm.weight
        model.set_submodule(read.norm, replaced)


def _fits(model: Network) -> bool:
    return next(_layer_norms(model), None) is not None


CENTRE_STREAM = Rewrite("centre_stream", fits=_fits, needed=True, fold=_fold, restructure=_restructure)
