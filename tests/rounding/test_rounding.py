"""GPTQ against the definition, and networks quantized site after site."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import illama_deploy
from illama_deploy import RecipeError
from illama_deploy.affine import dequantize_weight
from illama_deploy.calib import Moments, collect_moments
from illama_deploy.formats import IntType
from illama_deploy.recipe import Recipe
from illama_deploy.rounding import gptq, nearest, rounding_method

INT4 = IntType(4)


def _correlated(rows: int, inputs: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(0, -2, inputs)
    return torch.randn(rows, inputs, generator=generator) @ mixing


def _moments(x: torch.Tensor, reference: torch.Tensor | None = None) -> Moments:
    moments = Moments(x.shape[1])
    moments.update(x, reference)
    return moments


def _error(weight: torch.Tensor, rounded: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor) -> float:
    return float(((dequantize_weight(*rounded) - weight) @ x.T).square().sum())


@pytest.mark.parametrize("group", [None, 16])
def test_gptq_beats_nearest_on_correlated_inputs(group: int | None) -> None:
    """Also past LAZY columns, and with the step sizes of nearest."""
    x, unseen = _correlated(2000, 192), _correlated(2000, 192)
    weight = torch.randn(24, 192, generator=torch.Generator().manual_seed(1))
    plain = nearest(weight, INT4, group=group)
    careful = gptq(weight, INT4, moments=_moments(x), group=group)
    assert torch.equal(careful.scale, plain.scale)
    assert careful.integers.dtype == torch.int8
    assert _error(weight, careful, unseen) < 0.5 * _error(weight, plain, unseen)


def test_gptq_is_nearest_where_inputs_are_independent() -> None:
    moments = Moments(64)
    moments.second = torch.diag(torch.rand(64, dtype=torch.float64) + 0.5)
    weight = torch.randn(8, 64)
    assert torch.equal(gptq(weight, INT4, moments=moments).integers, nearest(weight, INT4).integers)


def test_gptq_is_greedy_least_squares() -> None:
    """Column by column with an explicit solve of what the rest should become, loudest input first."""
    x = _correlated(300, 10)
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(2))
    moments = _moments(x)
    result = gptq(weight, INT4, moments=moments)
    hessian = moments.second + 0.01 * moments.second.diagonal().mean() * torch.eye(10)
    w, steps = weight.double(), result.scale.double()[:, None]
    rest = torch.argsort(moments.second.diagonal(), descending=True).tolist()
    integers = torch.zeros(3, 10)
    while rest:
        j, *rest = rest
        integers[:, j : j + 1] = (w[:, j : j + 1] / steps).round().clamp(-8, 7)
        error = w[:, j : j + 1] - integers[:, j : j + 1] * steps
        if rest:
            w[:, rest] += error @ torch.linalg.solve(hessian[rest][:, rest], hessian[rest][:, [j]]).T
    assert torch.equal(result.integers, integers.to(torch.int8))


def test_inputs_that_are_always_zero() -> None:
    x = _correlated(100, 32)
    x[:, 5] = 0
    weight = torch.randn(4, 32)
    assert torch.equal(gptq(weight, INT4, moments=_moments(x)).integers[:, 5], nearest(weight, INT4).integers[:, 5])
    assert torch.equal(gptq(weight, INT4, moments=_moments(0 * x)).integers, nearest(weight, INT4).integers)


def test_gptaq_makes_good_what_the_inputs_lost() -> None:
    reference = _correlated(2000, 48)
    x = (reference * 2).round() / 2 * 0.9
    weight = torch.randn(16, 48, generator=torch.Generator().manual_seed(1))
    moments = _moments(x, reference)
    wanted = weight @ reference.T

    def error(asymmetric: bool) -> float:
        rounded = gptq(weight, IntType(8), moments=moments, asymmetric=asymmetric)
        return float((dequantize_weight(*rounded) @ x.T - wanted).square().sum())

    assert error(True) < 0.25 * error(False)


def test_gptaq_does_not_fit_few_rows() -> None:
    reference = _correlated(100, 48)
    moments = _moments(reference.round(), reference)
    weight = torch.randn(16, 48, generator=torch.Generator().manual_seed(1))
    plain = gptq(weight, INT4, moments=moments)
    assert torch.equal(gptq(weight, INT4, moments=moments, asymmetric=True).integers, plain.integers)


def test_moments_are_those_of_the_rows() -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    other = copy.deepcopy(part)
    nn.init.normal_(other[0].weight)
    chunks = [torch.randn(3, 5, 6), torch.randn(2, 5, 6)]
    found = collect_moments(part, {"2": torch.round}, chunks, reference=other, reference_chunks=chunks)["2"]
    rows = torch.cat([part[:2](c).round().flatten(0, 1) for c in chunks])
    floats = torch.cat([other[:2](c).flatten(0, 1) for c in chunks])
    assert found.rows == 25
    torch.testing.assert_close(found.second, (rows.T @ rows).double())
    torch.testing.assert_close(found.cross, (floats.T @ rows).double())
    assert not any(module._forward_pre_hooks for module in part.modules())


def test_unknown_method() -> None:
    with pytest.raises(RecipeError, match="no rounding method 'furthest'"):
        rounding_method("furthest")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "gptaq"])
def test_low_bits_of_digits_are_better_and_the_same_each_time(method: str, tmp_path: Path) -> None:
    """Any --calib-batch gives the same bytes."""
    recipe = Recipe(format="W4A8", rounding=method, calib_images=40, attention_products=True)
    made = [illama_deploy.quantize(recipe=recipe, calib_batch=batch, out=tmp_path / str(batch)) for batch in (7, 64)]
    plain = illama_deploy.quantize(recipe=recipe.override(rounding="nearest"), out=tmp_path / "nearest")
    first, second = ((artifact.path / "model.safetensors").read_bytes() for artifact in made)
    assert first == second
    assert made[0].manifest["logit_sqnr_db"] > plain.manifest["logit_sqnr_db"] + 3


@pytest.mark.slow
def test_groups_of_weights_only(tmp_path: Path) -> None:
    recipe = Recipe(format="W2A16", rounding="gptaq", calib_images=64)
    artifact = illama_deploy.quantize(recipe=recipe, out=tmp_path / "gptaq")
    plain = illama_deploy.quantize(recipe=recipe.override(rounding="nearest"), out=tmp_path / "nearest")
    assert artifact.manifest["logit_sqnr_db"] > plain.manifest["logit_sqnr_db"] + 3
