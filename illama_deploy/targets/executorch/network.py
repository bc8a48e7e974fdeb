"""What ExecuTorch's XNNPACK delegate computes of a network, in torch.

Its integer GEMMs take activations in floating point and quantize each token themselves, asymmetrically, from the
token's least and largest value. Networks of static integers can be held to their own step sizes there (`pinned`);
formats that cannot take this arithmetic instead.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...formats import IntType
from ...model.illama import Illama
from ...quant.modules import QuantConv2d, QuantLinear, QuantModule, QuantWeighted
from ...quant.network import quantized_modules
from ...quant.weight_only import is_gemm

__all__ = ["QMAX", "QMIN", "PerToken", "per_token", "pinned"]

#: What the delegate's integers hold.
QMIN, QMAX = -128, 127


class PerToken(QuantWeighted):
    """A site whose activations XNNPACK quantizes; the format stays that of the network it was made from."""

    def set_values(
        self, weight_q: Tensor, weight_scale: Tensor, bias: Tensor | None, input_scale: Tensor | None
    ) -> None:
        """Fill the buffers; no step size of the input is kept, and the bias stays float."""
        self.input_scale = self.bias_q = None
        self.bias = None if bias is None else bias.detach().clone().float()
        self.weight_q.copy_(weight_q)
        self.weight_scale.copy_(weight_scale)

    def _linear(self, x: Tensor) -> Tensor:
        q_x, scale = quantize_per_token(x)
        y = F.linear(q_x, self.weight_q.flatten(1).float()) * (scale * self.weight_scale)
        return y if self.bias is None else y + self.bias


class PerTokenLinear(PerToken, QuantLinear):
    """`nn.Linear` on integers, with a step size and a zero point for each token of its input."""


class PerTokenConv2d(PerToken, QuantConv2d):
    """The patch embedding on integers, with a step size and a zero point for each patch."""

    def forward(self, x: Tensor) -> Tensor:
        size, (rows, columns) = self.shape[2:], self._cells(x)
        patches_BNK = F.unfold(x, size, padding=self.padding, stride=self.stride).transpose(1, 2)
        return self._linear(patches_BNK).transpose(1, 2).reshape(len(x), -1, rows, columns)


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers less their zero points, as float32, and step sizes [..., 1], as XNNPACK makes them of each token.

    The range always holds 0; the zero point is taken from the end where it comes out with the smaller error.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0.0), x.amax(-1, keepdim=True).clamp(min=0.0)
    steps = torch.where(low == high, 1.0, (QMAX - QMIN) / (high - low))
    at_low, at_high = QMIN - low * steps, QMAX - high * steps
    from_low = (QMIN + low * steps) + (QMAX + high * steps) > 0
    zero = torch.where(from_low, at_low, at_high).clamp(QMIN, QMAX).round()
    return (x * steps).round().add(zero).clamp(QMIN, QMAX) - zero, 1.0 / steps


def pinned(module: QuantModule) -> bool:
    """Whether the delegate computes with a site's own integers: those of fixed step sizes, at most 8 bits wide."""
    format_ = module.format
    return isinstance(module, QuantWeighted) and format_.is_integer and module.input_scale is not None


def per_token(model: Illama, bases: Collection[str]) -> Illama:
    """The network whose GEMMs in the formats of these names (`Format.base`) quantize each token as XNNPACK does.

    Their integers, the step sizes of their weights and their biases stay.

    Returns:
        A copy, or the network itself where there is nothing to change.
    """
    chosen = [
        name
        for name, module in quantized_modules(model)
        if module.format.base in bases and is_gemm(module) and not isinstance(module, PerToken)
    ]
    if not chosen:
        return model
    model = copy.deepcopy(model)
    for name in chosen:
        model.set_submodule(name, _twin(model.get_submodule(name)))
    return model.requires_grad_(False).eval()


def _twin(module: Any) -> QuantWeighted:
    kinds = {QuantLinear: PerTokenLinear, QuantConv2d: PerTokenConv2d}
    bias = module.float_bias
    assert isinstance(module.format.weights, IntType)
    twin = kinds[type(module)](module.shape, bias is not None, module.format)
    twin.copy_form(module)
    twin.set_values(module.weight_q, module.weight_scale, bias, None)
    return twin
