"""The same integers with activations in floating point, for targets that multiply no integers of these widths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

from ..formats import Format
from ..model.network import Network
from .modules import QuantConv2d, QuantWeighted
from .network import quantized_modules

__all__ = ["weight_only", "with_twins"]


def weight_only(model: Network, bases: Collection[str]) -> Network:
    """The network whose GEMMs in the formats of these names (`Format.base`) take activations as they come.

    See `with_twins` for what stays.
    """
    return with_twins(model, bases, _weight_only)


def with_twins(model: Network, bases: Collection[str], make: Callable[[QuantWeighted], QuantWeighted]) -> Network:
    """The network with a twin of each GEMM in the formats of these names (`Format.base`).

    Its integers, step sizes of weights and biases stay. So do products of attention, which have no weights, and
    convolutions whose patches overlap, which run on integers of fixed step sizes everywhere.

    Args:
        make: a site to a twin of the same shape, values unset; it takes no step size of the input.

    Returns:
        A copy, or the network itself where there is nothing to change.
    """
    chosen = [name for name, module in quantized_modules(model) if module.format.base in bases and _is_gemm(module)]
    if not chosen:
        return model
    model = copy.deepcopy(model)
    for name in chosen:
        module = model.get_submodule(name)
        assert isinstance(module, QuantWeighted)
        twin = make(module)
        twin.copy_form(module)
        twin.set_values(module.weight_q, module.weight_scale, module.float_bias, None)
        model.set_submodule(name, twin)
    return model.requires_grad_(False).eval()


def _weight_only(module: QuantWeighted) -> QuantWeighted:
    format_ = Format(module.format.weights, None, module.format.group)
    return type(module)(module.shape, module.float_bias is not None, format_)


def _is_gemm(module: object) -> bool:
    if isinstance(module, QuantConv2d):
        return module.stride == tuple(module.shape[2:]) and not any(module.padding)
    return isinstance(module, QuantWeighted)
