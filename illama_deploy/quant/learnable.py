"""Twins of the quantized modules whose integers, step sizes and biases can be learned.

Rounding lets gradients through (Bengio et al., arXiv 1308.3432), which with clamping also gives the step sizes their
gradient as in LSQ (Esser et al., arXiv 1902.08153). Numbers are those of `modules.py` but for the order of float sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..affine import scale_of
from ..formats import IntType, NumberType
from .modules import QuantLinear, QuantMatMul, QuantModule
from .network import quantized_modules

__all__ = ["LearnableLinear", "LearnableMatMul", "fake_quantize", "freeze", "make_learnable"]

#: A latent weight starts as near to the float weight as its integer allows.
NEAREST_TO_TIE = 0.49


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def fake_quantize(x: Tensor, scale: Tensor, dtype: NumberType) -> Tensor:
    """Quantize and dequantize; differentiable in x and in scale."""
    return _round((x / scale).clamp(dtype.qmin, dtype.qmax)) * scale


class LearnableLinear(nn.Module):
    """A `QuantLinear` of integers.

    Parameters: latent [out, in], the weight in units of its step; log_weight_scale [out, groups] and log_input_scale
    [], changes of the step sizes against their start, in natural logarithm; bias [out].
    """

    def __init__(self, quantized: QuantLinear, weight: Tensor) -> None:
        """Start at the integers of `quantized`; `weight` [out, in] is the float weight that they stand for."""
        super().__init__()
        if not isinstance(quantized.format.weights, IntType):
            raise TypeError("only integers are learned")
        self.quantized = quantized
        integers = quantized.weight_q.float()
        self.start_scale = quantized.weight_scale.view(len(integers), -1, 1).clone()
        self.groups = self.start_scale.shape[1]
        exact = (weight.view(len(integers), self.groups, -1) / self.start_scale).flatten(1)
        self.latent = nn.Parameter(integers + (exact - integers).clamp(-NEAREST_TO_TIE, NEAREST_TO_TIE))
        self.log_weight_scale = nn.Parameter(torch.zeros(len(integers), self.groups))
        static = quantized.input_scale is not None
        self.log_input_scale = nn.Parameter(torch.zeros(())) if static else None
        bias = quantized.float_bias
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    @property
    def weight_scale(self) -> Tensor:
        """Step sizes [out, groups]."""
        return self.start_scale[..., 0] * self.log_weight_scale.exp()

    @property
    def input_scale(self) -> Tensor | None:
        """Step size of the input [], where it is static."""
        if self.log_input_scale is None:
            return None
        assert self.quantized.input_scale is not None
        return self.quantized.input_scale * self.log_input_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        format_ = self.quantized.format
        integers = _round(self.latent.clamp(format_.weights.qmin, format_.weights.qmax))
        weight = integers.view(len(integers), self.groups, -1) * self.weight_scale[..., None]
        if format_.activations is not None:
            scale = self.input_scale
            if scale is None:
                scale = scale_of(x.abs().amax(-1, keepdim=True), format_.activations)
            x = fake_quantize(x, scale, format_.activations)
        bias: Tensor | None = self.bias
        if bias is not None and format_.is_integer:
            assert self.input_scale is not None
            step = self.input_scale * self.weight_scale[:, 0]
            bias = _round(bias / step) * step
        return F.linear(x, weight.flatten(1), bias)

    @torch.no_grad()
    def freeze(self) -> QuantLinear:
        """The quantized module with what was learned."""
        kind, scale = self.quantized.format.weights, self.weight_scale
        integers = self.latent.clamp(kind.qmin, kind.qmax).round()
        steps = scale if self.quantized.weight_scale.ndim == 2 else scale[:, 0]
        self.quantized.set_values(integers, steps, self.bias, self.input_scale)
        return self.quantized


class LearnableMatMul(nn.Module):
    """A `QuantMatMul` that lets gradients through; it has nothing to learn."""

    def __init__(self, quantized: QuantMatMul) -> None:
        super().__init__()
        self.quantized = quantized

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q, kind = self.quantized, self.quantized.activations
        return fake_quantize(a, q.a_scale, kind) @ fake_quantize(b, q.b_scale, kind)

    def freeze(self) -> QuantMatMul:
        """The quantized module, as it was."""
        return self.quantized


def make_learnable(part: nn.Module, reference: nn.Module) -> None:
    """Put learnable twins in the places of the quantized modules of `part`; `reference` is the same part in float."""
    for name, module in list(quantized_modules(part)):
        twin: nn.Module
        if isinstance(module, QuantMatMul):
            twin = LearnableMatMul(module)
        else:
            assert isinstance(module, QuantLinear)
            weight = reference.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            twin = LearnableLinear(module, weight)
        part.set_submodule(name, twin)


def freeze(part: nn.Module) -> None:
    """Undo `make_learnable`, keeping what was learned."""
    twins = [(n, m) for n, m in part.named_modules() if isinstance(m, LearnableLinear | LearnableMatMul)]
    for name, twin in twins:
        frozen: QuantModule = twin.freeze()
        part.set_submodule(name, frozen)
