"""Learnable modules: they start at the very integers, learn by LSQ's gradient, and freeze to what they computed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from illama_deploy.affine import quantize
from illama_deploy.formats import IntType
from illama_deploy.quant import QuantizedArtifact, load_quantized, quantized_modules
from illama_deploy.quant.learnable import LearnableLinear, freeze, make_learnable
from illama_deploy.steps.qat import rewritten_network
from illama_deploy.steps.quantize import quantize as quantize_step


def freeze_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    freeze(model)
    return model.eval()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_rounding_passes_gradients_of_what_is_inside() -> None:
    x = torch.tensor([-9.0, -0.6, 0.2, 1.4, 9.0], requires_grad=True)
    y = quantize(x, torch.tensor(1.0), IntType(4))
    assert y.tolist() == [-8, -1, 0, 1, 7]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_steps_get_the_gradient_of_lsq(digits_quantized: QuantizedArtifact) -> None:
    """Compared with Esser et al.'s equation 3, written down: round(v) - v inside, the limit outside."""
    frozen = digits_quantized.model.blocks[0].attn.proj
    module = LearnableLinear(frozen, frozen.dequantized_weight(), learn_steps=True, float_share=1.0)
    x = torch.randn(5, 128) * 40 * frozen.input_scale
    out = torch.randn(5, 128)
    (module(x) * out).sum().backward()
    v = x / frozen.input_scale
    slope = torch.where(v <= -128, -128, torch.where(v >= 127, 127, v.round() - v))
    reached = out @ frozen.dequantized_weight()
    expected = (reached * slope).sum() * frozen.input_scale / (128 * 127) ** 0.5  # θ's own factor is s
    torch.testing.assert_close(module.input_step.theta.grad[0], expected, rtol=1e-3, atol=1e-5)


FORMATS = ("W8A8", "W4A8", "W4A4", "W3A3", "W8A8-dynamic", "W4A16-g16", "FP8")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_training_starts_at_the_very_integers_and_loses_nothing(tmp_path: Path, name: str) -> None:
    artifact = quantize_step(format=name, calib_images=64, out=tmp_path / "q")
    target = rewritten_network(artifact)
    before = {key: tensor.clone() for key, tensor in artifact.model.state_dict().items()}
    make_learnable(artifact.model, target, artifact.model.structure.shared_inputs())
    mlp = artifact.model.blocks[0].mlp
    shared = {id(getattr(mlp, fc).input_step) for fc in ("fc1", "fc3")}
    assert len(shared) == 1  # one input, quantized once
    model = artifact.model.train().requires_grad_(True)
    assert same(before, freeze_copy(model).state_dict())
    images = torch.randn(16, 1, 32, 32)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(images), torch.arange(16) % 10).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    frozen = freeze_copy(model)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), frozen(images))
    changed = [key for key, tensor in frozen.state_dict().items() if not torch.equal(tensor, before[key])]
    assert {"pos_embed", "norm.weight", "head.weight_q", "blocks.0.mlp.fc2.weight_scale"} <= set(changed)
    assert not any(isinstance(module, LearnableLinear) for _, module in quantized_modules(frozen))


def test_fixed_steps_stay(digits_quantized: QuantizedArtifact) -> None:
    model = load_quantized(digits_quantized.path).model
    make_learnable(model, rewritten_network(digits_quantized), [], learn_steps=False)
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.endswith("theta"))
    model(torch.randn(2, 1, 32, 32)).sum().backward()
