"""Replace the chosen sites of a network by their quantized twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..affine import scale_of
from ..formats import Format
from ..model.illama import Illama
from .modules import QuantConv2d, QuantLinear, QuantMatMul, QuantModule
from .sites import Site

__all__ = ["quantize_network", "quantized_modules", "restructure_sites"]

Rounding = Callable[[Tensor], tuple[Tensor, Tensor]]


def restructure_sites(model: Illama, sites: Sequence[str], format_: Format) -> None:
    """Put quantized modules in the sites' places, values unset, in place."""
    for name in sites:
        module = model.get_submodule(name)
        twin: QuantModule
        if isinstance(module, nn.Linear):
            twin = QuantLinear.like(module, format_.activations)
        elif isinstance(module, nn.Conv2d):
            twin = QuantConv2d.like(module, format_.activations)
        else:
            twin = QuantMatMul(format_.activations)
        model.set_submodule(name, twin)


@torch.no_grad()
def quantize_network(
    model: Illama,
    sites: Sequence[Site],
    thresholds: Mapping[str, float],
    format_: Format,
    rounding: Rounding,
) -> None:
    """Quantize the sites, in place.

    Args:
        thresholds: clipping threshold of each `SITE/INPUT`.
        rounding: float weight [out, ...] to (int8 integers, float32 scale [out]).
    """
    originals = {site.name: model.get_submodule(site.name) for site in sites}
    restructure_sites(model, list(originals), format_)
    for site in sites:
        twin, original = model.get_submodule(site.name), originals[site.name]
        scales = {name: scale_of(thresholds[f"{site.name}/{name}"], format_.activations) for name in site.inputs}
        if isinstance(twin, QuantMatMul):
            twin.a_scale.copy_(scales["a"])
            twin.b_scale.copy_(scales["b"])
        else:
            assert isinstance(twin, QuantLinear | QuantConv2d)
            assert isinstance(original, nn.Linear | nn.Conv2d)
            integers, weight_scale = rounding(original.weight)
            twin.set_values(integers, weight_scale, original.bias, scales["input"])


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, QuantModule]]:
    """Yield (site name, module) of every quantized site."""
    for name, module in model.named_modules():
        if isinstance(module, QuantModule):
            yield name, module
