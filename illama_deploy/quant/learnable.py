"""Quantized modules whose integers, step sizes and biases can be learned, by training or by block reconstruction.

They are those of `modules.py` and compute with their code; only what they compute with is made anew in each forward
pass, from parameters:

    q_w = round(clip(w / s_w)),    s = s0 · exp(θ),    q_b = round(b / (s_x · s_w))

so that `freeze` loses nothing. Rounding is straight-through (`affine.py`), which gives step sizes the gradient of
LSQ; it is scaled by 1/sqrt(n · qmax), n values sharing the step. θ instead of s lets an adaptive optimizer move a
step of any size by the same share, and keeps it positive.

Source: Esser et al., *Learned Step Size Quantization* (arXiv 1902.08153).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..affine import quantize, round_through
from .modules import (
    BIAS_LIMIT,
    Operands,
    QuantConv2d,
    QuantConvTranspose2d,
    QuantLinear,
    QuantMatMul,
    QuantModule,
    QuantReLU,
    QuantWeighted,
    gemm_operands,
)
from .network import quantized_modules

__all__ = [
    "LearnableConv2d",
    "LearnableConvTranspose2d",
    "LearnableLinear",
    "LearnableMatMul",
    "LearnableReLU",
    "LearnableWeighted",
    "freeze",
    "make_learnable",
]

#: Weights start at most so far from their integer, in steps.
LARGEST_OFFSET = 0.49


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class _Step(nn.Module):
    """A step size (or one for each channel or group): s0 · exp(θ)."""

    start: Tensor

    def __init__(self, start: Tensor, qmax: float, *, learned: bool) -> None:
        super().__init__()
        self.qmax = qmax
        self.register_buffer("start", start.detach().clone())
        self.theta = nn.Parameter(torch.zeros(start.numel()), requires_grad=learned)  # 1-D: weight decay passes it by

    def forward(self, sharing: int) -> Tensor:
        """The step, whose gradient comes from `sharing` values."""
        if not self.theta.requires_grad:
            return self.start
        theta = _ScaledGradient.apply(self.theta, (sharing * self.qmax) ** -0.5)
        return self.start * theta.exp().view_as(self.start)


class LearnableWeighted(QuantWeighted):
    """A site with a weight: parameters weight (float, [out, ...]), bias and the steps' θ."""

    twin: type[QuantWeighted]

    def __init__(self, frozen: QuantWeighted, target: Tensor, *, learn_steps: bool, float_share: float) -> None:
        nn.Module.__init__(self)
        self.format, self.shape = frozen.format, frozen.shape
        self.copy_form(frozen)
        scale = _by_row(frozen.weight_scale)
        integers = frozen.weight_q.float().view(*scale.shape[:2], -1)
        apart = float_share * (target.reshape(integers.shape) / scale - integers)
        self.weight = nn.Parameter(((integers + apart.clamp(-LARGEST_OFFSET, LARGEST_OFFSET)) * scale).view(self.shape))
        self.weight_step = _Step(frozen.weight_scale, self.format.weights.qmax, learned=learn_steps)
        self.input_step = None
        if frozen.input_scale is not None:
            self.input_step = _Step(frozen.input_scale, self.activations.qmax, learned=learn_steps)
        bias = frozen.bias
        if frozen.bias_q is not None:  # in float64, so that it rounds to where it was
            bias = frozen.bias_q.double() * frozen.output_scale.double()
        self.bias = None if bias is None else nn.Parameter(bias.float())

    def shares_input(self, other: LearnableWeighted) -> bool:
        """Whether both quantize the same input in the same way."""
        own, its = self.input_step, other.input_step
        if own is None or its is None or self.activations != other.activations:
            return False
        return torch.equal(own.start, its.start)

    def operands(self) -> Operands:
        bias, bias_q, weight = self.bias, None, self.weight
        input_scale = None if self.input_step is None else self.input_step(self.shape[1:].numel())
        weight_scale = self.weight_step(weight.numel() // self.weight_step.start.numel())
        if bias is not None and self.format.is_integer:
            assert input_scale is not None
            # As in `set_values`: no bias beyond the integers.
            weight_scale = torch.maximum(weight_scale, bias.detach().abs() / (input_scale.detach() * BIAS_LIMIT))
            bias_q = round_through(bias.double() / (input_scale.double() * weight_scale.double()))
            bias = None
        steps = _by_row(weight_scale)
        weight_q = quantize(weight.view(*steps.shape[:2], -1), steps, self.format.weights).view(self.shape)
        return Operands(weight_q, weight_scale, bias_q, bias, input_scale)

    def freeze(self) -> QuantWeighted:
        """The quantized module with what was learned."""
        twin = self.twin(self.shape, self.bias is not None, self.format)
        weight_q, weight_scale, _, _, input_scale = self.operands()
        twin.copy_form(self)
        twin.set_values(weight_q, weight_scale, self.bias, input_scale)
        return twin


class LearnableLinear(LearnableWeighted, QuantLinear):
    """`QuantLinear` in training."""

    twin = QuantLinear


class LearnableConv2d(LearnableWeighted, QuantConv2d):
    """`QuantConv2d` in training."""

    twin = QuantConv2d


class LearnableConvTranspose2d(LearnableWeighted, QuantConvTranspose2d):
    """`QuantConvTranspose2d` in training."""

    twin = QuantConvTranspose2d


class LearnableMatMul(QuantMatMul):
    """`QuantMatMul` in training."""

    def __init__(self, frozen: QuantMatMul, *, learn_steps: bool) -> None:
        nn.Module.__init__(self)
        self.format = frozen.format
        self.a_step, self.b_step = (
            _Step(scale, self.activations.qmax, learned=learn_steps) for scale in (frozen.a_scale, frozen.b_scale)
        )

    def scales(self) -> tuple[Tensor, Tensor]:
        return self.a_step(1), self.b_step(1)

    def freeze(self) -> QuantMatMul:
        """The quantized module with what was learned."""
        twin = QuantMatMul(self.format)
        twin.a_scale, twin.b_scale = self.scales()
        return twin


class LearnableReLU(QuantReLU):
    """`QuantReLU` in training."""

    def __init__(self, frozen: QuantReLU, *, learn_steps: bool) -> None:
        nn.Module.__init__(self)
        self.format = frozen.format
        self.learned = _Step(frozen.scale, self.activations.qmax, learned=learn_steps)

    def step(self) -> Tensor:
        return self.learned(1)

    def freeze(self) -> QuantReLU:
        """The quantized module with what was learned."""
        twin = QuantReLU(self.format)
        twin.scale = self.step()
        return twin


#: Quantized module with a weight to its twin in training.
WEIGHTED: dict[type[QuantWeighted], type[LearnableWeighted]] = {
    kind.twin: kind for kind in (LearnableLinear, LearnableConv2d, LearnableConvTranspose2d)
}


def make_learnable(
    part: nn.Module,
    reference: nn.Module,
    shared: Sequence[Sequence[str]],
    *,
    learn_steps: bool = True,
    float_share: float = 1.0,
) -> None:
    """Put learnable modules in the places of the quantized ones of a network (or of a part of one), in place.

    Args:
        reference: the same part in float, rewritten alike: where its weights start towards.
        shared: layers of the part that take one input, by name (`Structure.shared_inputs`): it stays quantized once.
        learn_steps: learn step sizes too.
        float_share: share of the way from a weight's integer to its float value at which it starts; at 1, what was
            rounded away from the nearest integer is about to go back there.
    """
    for name, module in list(quantized_modules(part)):
        twin: QuantModule
        if isinstance(module, QuantMatMul):
            twin = LearnableMatMul(module, learn_steps=learn_steps)
        elif isinstance(module, QuantReLU):
            twin = LearnableReLU(module, learn_steps=learn_steps)
        else:
            assert isinstance(module, QuantWeighted)
            weight = gemm_operands(reference.get_submodule(name))[0].detach()
            twin = WEIGHTED[type(module)](module, weight, learn_steps=learn_steps, float_share=float_share)
        part.set_submodule(name, twin)
    for names in shared:
        first, *others = (part.get_submodule(name) for name in names)
        for other in others:
            if isinstance(first, LearnableLinear) and isinstance(other, LearnableLinear) and first.shares_input(other):
                other.input_step = first.input_step


@torch.no_grad()
def freeze(part: nn.Module) -> None:
    """Undo `make_learnable`, keeping what was learned: the same function."""
    for name, module in list(quantized_modules(part)):
        if isinstance(module, LearnableWeighted | LearnableMatMul | LearnableReLU):
            quantized: QuantModule = module.freeze()
            part.set_submodule(name, quantized)


def _by_row(scale: Tensor) -> Tensor:
    """[out] or [out, groups] as [out, groups, 1]."""
    return scale.view(len(scale), -1, 1)
