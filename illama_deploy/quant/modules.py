"""Quantized GEMMs: integers in, one rescaling out.

    y = (q_x · q_wᵀ + q_b) · (s_x · s_w),     q_b = round(b / (s_x · s_w)) as int32

which is what an integer kernel computes. The integers are added in a float32 GEMM; that is exact while sums
stay below 2**24, as they do for every published geometry on real images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..affine import quantize
from ..formats import IntType

__all__ = ["QuantConv2d", "QuantLinear", "QuantMatMul", "QuantModule"]

#: Biases stay below this in integers, so that float32 holds them exactly.
BIAS_LIMIT = 2**23


class QuantModule(nn.Module):
    """Base of the quantized sites.

    Attributes:
        activations: integer type of its activation inputs.
    """

    activations: IntType


class _QuantWeighted(QuantModule):
    """A site with a weight.

    Buffers: weight_q int8 [out, ...], weight_scale [out], bias_q int32 [out] or None, input_scale [].
    """

    weight_q: Tensor
    weight_scale: Tensor
    bias_q: Tensor | None
    input_scale: Tensor

    def __init__(self, shape: torch.Size, bias: bool, activations: IntType) -> None:
        super().__init__()
        self.activations = activations
        self.register_buffer("weight_q", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(shape[0]))
        self.register_buffer("bias_q", torch.zeros(shape[0], dtype=torch.int32) if bias else None)
        self.register_buffer("input_scale", torch.ones(()))

    def set_values(self, weight_q: Tensor, weight_scale: Tensor, bias: Tensor | None, input_scale: Tensor) -> None:
        """Fill the buffers; `bias` is float and becomes an integer at scale s_x · s_w."""
        if bias is not None:
            # A channel of (nearly) zero weights would need a bias beyond the integers: widen its step, which
            # costs its weights nothing that could be seen beside such a bias.
            floor = bias.detach().abs() / (input_scale * BIAS_LIMIT)
            widened = torch.maximum(weight_scale, floor)
            shrink = (weight_scale / widened).view(-1, *[1] * (weight_q.ndim - 1))
            weight_q = torch.round(weight_q * shrink).to(torch.int8)
            weight_scale = widened
            assert self.bias_q is not None
            self.bias_q.copy_(torch.round(bias.detach().double() / (input_scale.double() * weight_scale.double())))
        self.weight_q.copy_(weight_q)
        self.weight_scale.copy_(weight_scale)
        self.input_scale.copy_(input_scale)

    @property
    def output_scale(self) -> Tensor:
        """s_x · s_w, float32 [out]: the scale of the accumulator and of the bias."""
        return self.input_scale * self.weight_scale

    def _float_operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        bias = None if self.bias_q is None else self.bias_q.float()
        return quantize(x, self.input_scale, self.activations), self.weight_q.float(), bias


class QuantLinear(_QuantWeighted):
    """`nn.Linear` on integers."""

    @classmethod
    def like(cls, linear: nn.Linear, activations: IntType) -> QuantLinear:
        """Make one of the same shape, values unset."""
        return cls(linear.weight.shape, linear.bias is not None, activations)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(*self._float_operands(x)) * self.output_scale


class QuantConv2d(_QuantWeighted):
    """The patch embedding, a `nn.Conv2d` whose stride is its kernel, on integers."""

    @classmethod
    def like(cls, conv: nn.Conv2d, activations: IntType) -> QuantConv2d:
        """Make one of the same shape, values unset."""
        return cls(conv.weight.shape, conv.bias is not None, activations)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(*self._float_operands(x), stride=self.weight_q.shape[-1]) * self.output_scale.view(-1, 1, 1)


class QuantMatMul(QuantModule):
    """A product of two activations, both quantized per tensor: buffers a_scale [], b_scale []."""

    a_scale: Tensor
    b_scale: Tensor

    def __init__(self, activations: IntType) -> None:
        super().__init__()
        self.activations = activations
        self.register_buffer("a_scale", torch.ones(()))
        self.register_buffer("b_scale", torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q_a = quantize(a, self.a_scale, self.activations)
        q_b = quantize(b, self.b_scale, self.activations)
        return (q_a @ q_b) * (self.a_scale * self.b_scale)
