"""What ExecuTorch's XNNPACK delegate computes of a network, in torch.

Its integer GEMMs take activations in floating point and quantize each token themselves, asymmetrically, from the
token's least and largest value. Networks of static integers can be held to their own step sizes there (`pinned`);
formats that cannot take this arithmetic instead.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.network import Network
from ...quant.modules import QuantConv2d, QuantConvTranspose2d, QuantLinear, QuantWeighted
from ...quant.weight_only import with_twins

__all__ = ["QMAX", "QMIN", "PerToken", "per_token", "pinned"]

#: What the delegate's integers hold.
QMIN, QMAX = -128, 127


class PerToken(QuantWeighted):
    """A site whose activations XNNPACK quantizes; the format stays that of the network it was made from, dynamic."""

    def _linear(self, x: Tensor) -> Tensor:
        q_x, scale = quantize_per_token(x)
        y = F.linear(q_x, self.weight_q.flatten(1).float()) * (scale * self.weight_scale)
        return y if self.bias is None else y + self.bias


class PerTokenLinear(PerToken, QuantLinear):
    """`nn.Linear` on integers, with a step size and a zero point for each token of its input."""


class PerTokenConv2d(PerToken, QuantConv2d):
    """The patch embedding on integers, with a step size and a zero point for each patch."""


class PerTokenConvTranspose2d(PerToken, QuantConvTranspose2d):
    """A transposed convolution on integers, with a step size and a zero point for each pixel."""


TWINS: dict[type[QuantWeighted], type[PerToken]] = {
    QuantLinear: PerTokenLinear,
    QuantConv2d: PerTokenConv2d,
    QuantConvTranspose2d: PerTokenConvTranspose2d,
}


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


def pinned(module: QuantWeighted) -> bool:
    """Whether the delegate computes with a site's own integers: those of fixed step sizes."""
    return module.format.is_integer


def per_token(model: Network, bases: Collection[str]) -> Network:
    """The network whose GEMMs in the formats of these names (`Format.base`), which are dynamic, quantize each token as
    XNNPACK does.

    See `with_twins` for what stays.
    """
    return with_twins(model, bases, lambda site: TWINS[type(site)](site.shape, site.bias is not None, site.format))
