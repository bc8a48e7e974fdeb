"""Replace the chosen sites of a network by their quantized twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..affine import scale_of
from ..formats import Format, NumberType
from ..model.network import Network
from .modules import (
    QuantConv2d,
    QuantConvTranspose2d,
    QuantLinear,
    QuantMatMul,
    QuantModule,
    QuantReLU,
    QuantWeighted,
    gemm_operands,
)
from .sites import Site

__all__ = ["input_scales", "quantize_network", "quantized_modules", "restructure_sites"]

#: (float weight [out, ...], number type, group size or None) to (integers, float32 scale).
Rounding = Callable[[Tensor, NumberType, int | None], tuple[Tensor, Tensor]]


def restructure_sites(model: Network, formats: Mapping[str, Format]) -> None:
    """Put quantized modules in the sites' places (site name to its format), values unset, in place."""
    for name, format_ in formats.items():
        module = model.get_submodule(name)
        twin: QuantModule
        if isinstance(module, nn.Linear):
            twin = QuantLinear.like(module, format_)
        elif isinstance(module, nn.Conv2d):
            twin = QuantConv2d.like(module, format_)
        elif isinstance(module, nn.ConvTranspose2d):
            twin = QuantConvTranspose2d.like(module, format_)
        elif isinstance(module, nn.ReLU):
            twin = QuantReLU(format_)
        else:
            twin = QuantMatMul(format_)
        model.set_submodule(name, twin)


@torch.no_grad()
def quantize_network(
    model: Network,
    sites: Sequence[Site],
    thresholds: Mapping[str, float],
    formats: Mapping[str, Format],
    rounding: Rounding,
) -> None:
    """Quantize the sites, in place.

    Args:
        thresholds: clipping threshold of each `SITE/INPUT` whose activations are static.
        formats: of each site.
        rounding: how weights become integers.
    """
    originals = {site.name: model.get_submodule(site.name) for site in sites}
    restructure_sites(model, {site.name: formats[site.name] for site in sites})
    for site in sites:
        twin, original, format_ = model.get_submodule(site.name), originals[site.name], formats[site.name]
        scales: dict[str, Tensor] = {}
        if format_.is_static:
            assert format_.activations is not None
            scales = {name: scale_of(thresholds[f"{site.name}/{name}"], format_.activations) for name in site.inputs}
        if isinstance(twin, QuantMatMul):
            twin.a_scale.copy_(scales["a"])
            twin.b_scale.copy_(scales["b"])
        elif isinstance(twin, QuantReLU):
            twin.scale.copy_(scales["input"])
        else:
            assert isinstance(twin, QuantWeighted)
            weight, bias = gemm_operands(original)
            integers, weight_scale = rounding(weight, format_.weights, format_.group_for(weight[0].numel()))
            twin.set_values(integers, weight_scale, bias, scales.get("input"))


def input_scales(module: QuantModule) -> dict[str, float]:
    """The fixed step size of each input that a quantized module rounds, by the input's name."""
    if isinstance(module, QuantMatMul):
        return {name: float(scale) for name, scale in zip(("a", "b"), module.scales(), strict=True)}
    if isinstance(module, QuantReLU):
        return {"input": float(module.scale)}
    assert isinstance(module, QuantWeighted)
    return {} if module.input_scale is None else {"input": float(module.input_scale)}


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, QuantModule]]:
    """Yield (site name, module) of every quantized site."""
    for name, module in model.named_modules():
        if isinstance(module, QuantModule):
            yield name, module
