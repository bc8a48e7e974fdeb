"""A quantized network in training: float weights and step sizes under the integers that its arithmetic sees.

The modules are those of `quant/modules.py` and compute with their code; only what they compute with is made anew in
each forward pass, from parameters:

    q_w = round(clip(w / s_w)),    s = s0 · exp(θ),    q_b = round(b / (s_x · s_w))

so that `freeze` loses nothing. Rounding is straight-through (`affine.py`), which gives step sizes the gradient of
LSQ; it is scaled by 1/sqrt(n · qmax), n values sharing the step. θ instead of s lets an adaptive optimizer move a
step of any size by the same share, and keeps it positive.

Source: Esser et al., *Learned Step Size Quantization* (arXiv 1902.08153).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..affine import quantize, round_through
from ..model.illama import Illama
from ..quant import QuantConv2d, QuantLinear, QuantMatMul, quantized_modules
from ..quant.modules import BIAS_LIMIT, Operands, QuantWeighted

__all__ = ["freeze", "make_trainable"]

#: Weights start this share of the way from their integer towards the float weight, inside what rounds to the integer.
BLEND = 0.5
#: Largest distance from the integer, in steps.
INSIDE = 0.499


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


class _LearnedWeighted(QuantWeighted):
    """A site with a weight: parameters weight (float, [out, ...]), bias and the steps' θ."""

    twin: type[QuantWeighted]

    def __init__(self, frozen: QuantWeighted, target: Tensor, *, learned: bool) -> None:
        nn.Module.__init__(self)
        self.format, self.shape = frozen.format, frozen.shape
        scale = _by_row(frozen.weight_scale)
        integers = frozen.weight_q.float().view(*scale.shape[:2], -1)
        towards = BLEND * (target.reshape(integers.shape) / scale - integers)
        self.weight = nn.Parameter(((integers + towards.clamp(-INSIDE, INSIDE)) * scale).view(self.shape))
        self.weight_step = _Step(frozen.weight_scale, self.format.weights.qmax, learned=learned)
        self.input_step = None
        if frozen.input_scale is not None:
            self.input_step = _Step(frozen.input_scale, self.activations.qmax, learned=learned)
        bias = frozen.bias
        if frozen.bias_q is not None:  # in float64, so that it rounds to where it was
            bias = frozen.bias_q.double() * frozen.output_scale.double()
        self.bias = None if bias is None else nn.Parameter(bias.float())

    def shares_input(self, other: _LearnedWeighted) -> bool:
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


class LearnedLinear(_LearnedWeighted, QuantLinear):
    """`QuantLinear` in training."""

    twin = QuantLinear


class LearnedConv2d(_LearnedWeighted, QuantConv2d):
    """`QuantConv2d` in training."""

    twin = QuantConv2d


class LearnedMatMul(QuantMatMul):
    """`QuantMatMul` in training."""

    def __init__(self, frozen: QuantMatMul, *, learned: bool) -> None:
        nn.Module.__init__(self)
        self.format = frozen.format
        self.a_step, self.b_step = (
            _Step(scale, self.activations.qmax, learned=learned) for scale in (frozen.a_scale, frozen.b_scale)
        )

    def scales(self) -> tuple[Tensor, Tensor]:
        return self.a_step(1), self.b_step(1)


def make_trainable(model: Illama, target: Illama, *, learned: bool = True) -> None:
    """Put modules in training in the places of a network's quantized ones, in place.

    Args:
        target: the float network, rewritten as `model` was: where its weights start towards.
        learned: learn step sizes too.
    """
    model.requires_grad_(True)
    for name, module in list(quantized_modules(model)):
        if isinstance(module, QuantMatMul):
            model.set_submodule(name, LearnedMatMul(module, learned=learned))
        else:
            assert isinstance(module, QuantWeighted)
            kind = LearnedLinear if isinstance(module, QuantLinear) else LearnedConv2d
            weight = target.get_parameter(f"{name}.weight").detach()
            model.set_submodule(name, kind(module, weight, learned=learned))
    for number in range(len(model.blocks)):
        fc1, fc3 = (model.get_submodule(f"blocks.{number}.mlp.{name}") for name in ("fc1", "fc3"))
        # Both see one input; it stays quantized once.
        if isinstance(fc1, LearnedLinear) and isinstance(fc3, LearnedLinear) and fc1.shares_input(fc3):
            fc3.input_step = fc1.input_step


@torch.no_grad()
def freeze(model: Illama) -> Illama:
    """A copy with quantized modules in place of those in training: the same function, in evaluation mode."""
    frozen = copy.deepcopy(model).cpu()
    for name, module in list(quantized_modules(frozen)):
        if isinstance(module, LearnedMatMul):
            twin: Any = QuantMatMul(module.format)
            twin.a_scale, twin.b_scale = module.scales()
        else:
            assert isinstance(module, _LearnedWeighted)
            twin = module.twin(module.shape, module.bias is not None, module.format)
            weight_q, weight_scale, _, _, input_scale = module.operands()
            twin.set_values(weight_q, weight_scale, module.bias, input_scale)
        frozen.set_submodule(name, twin)
    return frozen.requires_grad_(False).eval()


def _by_row(scale: Tensor) -> Tensor:
    """[out] or [out, groups] as [out, groups, 1]."""
    return scale.view(len(scale), -1, 1)
