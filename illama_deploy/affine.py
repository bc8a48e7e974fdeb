"""The arithmetic of ONNX QuantizeLinear and DequantizeLinear, symmetric, in torch.

QuantizeLinear is saturate(round_half_to_even(x / scale) + zero_point): a float32 division, no reciprocal.
With zero point 128 and U8 (ONNX Runtime's fast spelling) the same value comes out shifted by 128. FP8 rounds
x / scale to the nearest FLOAT8E4M3FN instead, ties to even, saturating.
Rounding passes gradients on as they come (the straight-through estimator), clipping only those of values inside.
Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .formats import FloatType, NumberType

__all__ = ["dequantize_weight", "quantize", "round_through", "scale_of"]


class _Straight(torch.autograd.Function):
    """Rounds forward; is the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: torch.dtype | None) -> Tensor:
        return torch.round(x) if to is None else x.to(to).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def round_through(x: Tensor, to: torch.dtype | None = None) -> Tensor:
    """Round to whole numbers (or to the values of a dtype), with the gradient of the identity."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Straight.apply(x, to)
    return torch.round(x) if to is None else x.to(to).to(x.dtype)


def scale_of(threshold: Tensor | float, dtype: NumberType) -> Tensor:
    """Float32 step that maps `threshold` onto the largest integer; 1 / qmax where the threshold is 0."""
    threshold = torch.as_tensor(threshold, dtype=torch.float32)
    scale = torch.where(threshold > 0, threshold, 1.0) / dtype.qmax
    # A subnormal step would overflow the division; such a tensor is zero for every purpose.
    return scale.clamp(min=torch.finfo(torch.float32).tiny)


def quantize(x: Tensor, scale: Tensor, dtype: NumberType) -> Tensor:
    """Integers in float32, so that a float GEMM adds them exactly while sums stay below 2**24 (or FP8 values)."""
    x = torch.clamp(x / scale, dtype.qmin, dtype.qmax)
    return round_through(x, torch.float8_e4m3fn if isinstance(dtype, FloatType) else None)


def dequantize_weight(weight_q: Tensor, scale: Tensor) -> Tensor:
    """Float32 weight that integers stand for.

    Args:
        weight_q: [out, ...].
        scale: [out], or [out, groups] with equal groups along the flattened inputs.
    """
    flat = weight_q.float().flatten(1)
    steps = scale.view(len(flat), -1, 1)
    return (flat.view(len(flat), steps.shape[1], -1) * steps).view(weight_q.shape)
