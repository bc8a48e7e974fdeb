"""Quantized GEMMs. With static integer activations, integers in and one rescaling out:

    y = (q_x · q_wᵀ + q_b) · (s_x · s_w),     q_b = round(b / (s_x · s_w)) as int32

which is what an integer kernel computes. The integers are added in a float32 GEMM; that is exact while sums
stay below 2**24, as they do for every published geometry on real images. The other kinds of format:

    dynamic      y = (q_x · q_wᵀ) · s_x · s_w + b,    s_x = max|x| / qmax of each token
    FP8          y = (q_x · q_wᵀ) · (s_x · s_w) + b
    weight-only  y = x · (q_w · s_w)ᵀ + b
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..affine import dequantize_weight, quantize, scale_of
from ..formats import FloatType, Format, NumberType

__all__ = [
    "BIAS_LIMIT",
    "Operands",
    "QuantConv2d",
    "QuantConvTranspose2d",
    "QuantLinear",
    "QuantMatMul",
    "QuantModule",
    "QuantReLU",
    "QuantWeighted",
    "gemm_operands",
]

#: Biases stay below this in integers, so that float32 holds them exactly.
BIAS_LIMIT = 2**23


class QuantModule(nn.Module):
    """Base of the quantized sites.

    Attributes:
        format: of its operands.
    """

    format: Format

    @property
    def activations(self) -> NumberType:
        """Number type of its activation inputs."""
        assert self.format.activations is not None
        return self.format.activations


class Operands(NamedTuple):
    """What a GEMM of activations and weights takes besides the activations, as the buffers of the same names."""

    weight_q: Tensor
    weight_scale: Tensor
    bias_q: Tensor | None
    bias: Tensor | None
    input_scale: Tensor | None


class QuantWeighted(QuantModule):
    """A site with a weight.

    Buffers: weight_q int8 (or float8_e4m3fn) [out, ...]; weight_scale [out] or [out, groups]; bias_q int32 [out]
    where integers are added (`Format.is_integer`), else bias float32 [out], or None; input_scale [] where
    activations are static, else None.
    """

    weight_q: Tensor
    weight_scale: Tensor
    bias_q: Tensor | None
    bias: Tensor | None
    input_scale: Tensor | None

    def __init__(self, shape: torch.Size, bias: bool, format_: Format) -> None:
        super().__init__()
        self.format, self.shape = format_, shape
        out, inputs = shape[0], shape[1:].numel()
        group = format_.group_for(inputs)
        stored = torch.float8_e4m3fn if isinstance(format_.weights, FloatType) else torch.int8
        self.register_buffer("weight_q", torch.zeros(shape, dtype=stored))
        self.register_buffer("weight_scale", torch.ones(out) if group is None else torch.ones(out, inputs // group))
        integer = format_.is_integer
        self.register_buffer("bias_q", torch.zeros(out, dtype=torch.int32) if bias and integer else None)
        self.register_buffer("bias", torch.zeros(out) if bias and not integer else None)
        self.register_buffer("input_scale", torch.ones(()) if format_.is_static else None)

    def set_values(
        self, weight_q: Tensor, weight_scale: Tensor, bias: Tensor | None, input_scale: Tensor | None
    ) -> None:
        """Fill the buffers; `bias` is float, and becomes an integer at scale s_x · s_w where integers are added."""
        if bias is not None and self.bias_q is not None:
            assert input_scale is not None
            # A channel of (nearly) zero weights would need a bias beyond the integers: widen its step, which
            # costs its weights nothing that could be seen beside such a bias.
            floor = bias.detach().abs() / (input_scale * BIAS_LIMIT)
            widened = torch.maximum(weight_scale, floor)
            shrink = (weight_scale / widened).view(-1, *[1] * (weight_q.ndim - 1))
            weight_q = torch.round(weight_q * shrink).to(torch.int8)
            weight_scale = widened
            self.bias_q.copy_(torch.round(bias.detach().double() / (input_scale.double() * weight_scale.double())))
        elif bias is not None:
            assert self.bias is not None
            self.bias.copy_(bias.detach())
        self.weight_q.copy_(weight_q)
        self.weight_scale.copy_(weight_scale)
        if self.input_scale is not None:
            assert input_scale is not None
            self.input_scale.copy_(input_scale)

    @property
    def output_scale(self) -> Tensor:
        """s_x · s_w, float32 [out]: the scale of the accumulator and of the bias (static activations)."""
        assert self.input_scale is not None
        return self.input_scale * self.weight_scale

    @property
    def float_bias(self) -> Tensor | None:
        """The bias as float32 [out]."""
        return self.bias if self.bias_q is None else self.bias_q.float() * self.output_scale

    def dequantized_weight(self) -> Tensor:
        """The float32 weight that the integers stand for."""
        return dequantize_weight(self.weight_q, self.weight_scale)

    def copy_form(self, other: nn.Module) -> None:
        """Take over what is neither format nor shape; a Linear layer has nothing else."""

    def operands(self) -> Operands:
        """The buffers; a network in training makes them anew each time."""
        return Operands(self.weight_q, self.weight_scale, self.bias_q, self.bias, self.input_scale)

    def _linear(self, x: Tensor) -> Tensor:
        """The GEMM on x [..., in] and the flattened weight."""
        weight_q, weight_scale, bias_q, bias, input_scale = self.operands()
        if self.format.activations is None:
            return F.linear(x, dequantize_weight(weight_q, weight_scale).flatten(1), bias)
        weight = weight_q.flatten(1).float()
        if self.format.dynamic:
            scale = scale_of(x.abs().amax(-1, keepdim=True), self.activations)
            y = F.linear(quantize(x, scale, self.activations), weight) * weight_scale * scale
            return y if bias is None else y + bias
        assert input_scale is not None
        q_x = quantize(x, input_scale, self.activations)
        if self.format.is_integer:
            return F.linear(q_x, weight, None if bias_q is None else bias_q.float()) * (input_scale * weight_scale)
        y = F.linear(q_x, weight) * (input_scale * weight_scale)
        return y if bias is None else y + bias


class QuantLinear(QuantWeighted):
    """`nn.Linear` on integers."""

    @classmethod
    def like(cls, linear: nn.Linear, format_: Format) -> QuantLinear:
        """Make one of the same shape, values unset."""
        return cls(linear.weight.shape, linear.bias is not None, format_)

    def forward(self, x: Tensor) -> Tensor:
        return self._linear(x)


class QuantConv2d(QuantWeighted):
    """`nn.Conv2d` on integers: a GEMM over its patches, which is how the patch embedding runs, too."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def like(cls, conv: nn.Conv2d, format_: Format) -> QuantConv2d:
        """Make one of the same shape, values unset."""
        made = cls(conv.weight.shape, conv.bias is not None, format_)
        made.stride, made.padding = _pair(conv.stride), _pair(conv.padding)
        return made

    def copy_form(self, other: nn.Module) -> None:
        """Take over what is neither format nor shape."""
        assert isinstance(other, QuantConv2d)
        self.stride, self.padding = other.stride, other.padding

    def forward(self, x: Tensor) -> Tensor:
        if self.format.is_integer:
            # The same sums as those of the GEMM, in whatever order: they are exact.
            weight_q, weight_scale, bias_q, _, input_scale = self.operands()
            assert input_scale is not None
            q_x, bias = quantize(x, input_scale, self.activations), None if bias_q is None else bias_q.float()
            y = F.conv2d(q_x, weight_q.float(), bias, self.stride, self.padding)
            return y * (input_scale * weight_scale)[:, None, None]
        size, (rows, columns) = self.shape[2:], self._cells(x)
        patches_BNK = F.unfold(x, size, padding=self.padding, stride=self.stride).transpose(1, 2)
        return self._linear(patches_BNK).transpose(1, 2).reshape(len(x), -1, rows, columns)

    def _cells(self, x: Tensor) -> tuple[int, int]:
        rows, columns = (
            (side + 2 * padding - kernel) // stride + 1
            for side, kernel, stride, padding in zip(
                x.shape[2:], self.shape[2:], self.stride, self.padding, strict=True
            )
        )
        return rows, columns


class QuantConvTranspose2d(QuantWeighted):
    """`nn.ConvTranspose2d` whose stride is its kernel, on integers: each pixel becomes a square by one GEMM.

    Weights are [out · kernel · kernel, in]: each place of the square has step sizes of its own.
    """

    kernel: int

    @classmethod
    def like(cls, conv: nn.ConvTranspose2d, format_: Format) -> QuantConvTranspose2d:
        """Make one of the same function, values unset."""
        weight, bias = gemm_operands(conv)
        made = cls(weight.shape, bias is not None, format_)
        made.kernel = conv.kernel_size[0]
        return made

    def copy_form(self, other: nn.Module) -> None:
        """Take over what is neither format nor shape."""
        assert isinstance(other, QuantConvTranspose2d)
        self.kernel = other.kernel

    def forward(self, x: Tensor) -> Tensor:
        (B, _, h, w), k = x.shape, self.kernel
        y_BhwOkk = self._linear(x.permute(0, 2, 3, 1)).view(B, h, w, -1, k, k)
        return y_BhwOkk.permute(0, 3, 1, 4, 2, 5).reshape(B, -1, h * k, w * k)


class QuantMatMul(QuantModule):
    """A product of two activations, both quantized per tensor: buffers a_scale [], b_scale []."""

    a_scale: Tensor
    b_scale: Tensor

    def __init__(self, format_: Format) -> None:
        super().__init__()
        self.format = format_
        self.register_buffer("a_scale", torch.ones(()))
        self.register_buffer("b_scale", torch.ones(()))

    def scales(self) -> tuple[Tensor, Tensor]:
        """Step sizes of both operands."""
        return self.a_scale, self.b_scale

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a_scale, b_scale = self.scales()
        return (quantize(a, a_scale, self.activations) @ quantize(b, b_scale, self.activations)) * (a_scale * b_scale)


class QuantReLU(QuantModule):
    """The ReLU behind a convolution, which gives quantized values: buffer scale [].

    An integer convolution has no other way to put its result out: what it adds up is rescaled to the integers of the
    next layer's making. Rounding commutes with ReLU, so runtimes may do either first.
    """

    scale: Tensor

    def __init__(self, format_: Format) -> None:
        super().__init__()
        self.format = format_
        self.register_buffer("scale", torch.ones(()))

    def step(self) -> Tensor:
        """Step size."""
        return self.scale

    def forward(self, x: Tensor) -> Tensor:
        scale = self.step()
        return quantize(F.relu(x), scale, self.activations) * scale


def gemm_operands(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, ...] and bias [out] of the GEMM that a float module is."""
    assert isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    if not isinstance(module, nn.ConvTranspose2d):
        return module.weight, module.bias
    each = module.weight[0, 0].numel()
    weight = module.weight.permute(1, 2, 3, 0).flatten(0, 2)
    return weight, None if module.bias is None else module.bias.repeat_interleave(each)


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return value
