"""The same integers with activations in floating point, for targets that multiply no integers of these widths."""

from __future__ import annotations

import copy
from collections.abc import Collection

from ..formats import Format
from ..model.illama import Illama
from .modules import QuantConv2d, QuantWeighted
from .network import quantized_modules

__all__ = ["is_gemm", "weight_only"]


def weight_only(model: Illama, bases: Collection[str]) -> Illama:
    """The network whose GEMMs in the formats of these names (`Format.base`) take activations as they come.

    Their integers, step sizes and biases stay. So do products of attention, which have no weights, and convolutions
    whose patches overlap, which run on integers of fixed step sizes everywhere.

    Returns:
        A copy, or the network itself where there is nothing to change.
    """
    chosen = [name for name, module in quantized_modules(model) if module.format.base in bases and is_gemm(module)]
    if not chosen:
        return model
    model = copy.deepcopy(model)
    for name in chosen:
        module = model.get_submodule(name)
        assert isinstance(module, QuantWeighted)
        bias = module.float_bias
        twin = type(module)(module.shape, bias is not None, Format(module.format.weights, None, module.format.group))
        twin.copy_form(module)
        twin.set_values(module.weight_q, module.weight_scale, bias, None)
        model.set_submodule(name, twin)
    return model.requires_grad_(False).eval()


def is_gemm(module: object) -> bool:
    """Whether a site is a GEMM of weights and rows, as a convolution of patches that do not overlap is."""
    if isinstance(module, QuantConv2d):
        return module.stride == tuple(module.shape[2:]) and not any(module.padding)
    return isinstance(module, QuantWeighted)
