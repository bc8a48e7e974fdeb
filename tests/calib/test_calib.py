"""Ranges: independent of batching and order, right on distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from illama_deploy import RecipeError
from illama_deploy.affine import quantize, scale_of
from illama_deploy.calib import MagnitudeHistogram, collect_channel_maxima, collect_ranges, range_method, rebatch
from illama_deploy.formats import IntType

INT8 = IntType(8)
METHODS = ["minmax", "percentile", "percentile:99", "mse", "entropy", "auto"]


def _histogram(*parts: torch.Tensor) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for part in parts:
        histogram.update(part)
    return histogram


@settings(max_examples=60, deadline=None)
@example(values=[1.1754943508222875e-38, 1e-45], cuts=[], seed=0)
@example(values=[3.4e38, 1.0], cuts=[1], seed=0)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    seed=st.integers(0, 99),
)
def test_no_batching_or_order_changes_a_histogram(values: list[float], cuts: list[int], seed: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    whole = _histogram(x)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    parts = _histogram(*torch.tensor_split(shuffled, sorted(cuts)))
    assert torch.equal(whole.counts, parts.counts)
    assert whole.maximum == parts.maximum == float(x.abs().max())
    assert whole.exponent == parts.exponent
    assert int(whole.counts.sum()) == len(values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32).filter(lambda v: abs(v) > 1e-3), min_size=1, max_size=50))
def test_histogram_puts_values_into_their_bins(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    histogram = _histogram(x)
    expected, _ = np.histogram(np.abs(x.numpy()), bins=4096, range=(0, 4096 * histogram.width))
    assert np.array_equal(histogram.counts.numpy(), expected)
    assert 2048 <= np.flatnonzero(expected)[-1] < 4096


@pytest.mark.parametrize("method", METHODS)
def test_thresholds_stay_within_what_was_seen(method: str) -> None:
    torch.manual_seed(0)
    histogram = _histogram(torch.randn(100_000))
    threshold = range_method(method)(histogram, INT8)
    assert 1.0 < threshold <= histogram.maximum


@pytest.mark.parametrize("method", METHODS)
def test_all_zeros_give_a_usable_scale(method: str) -> None:
    threshold = range_method(method)(_histogram(torch.zeros(10)), INT8)
    assert float(scale_of(threshold, INT8)) > 0


def test_percentile_of_uniform_values() -> None:
    histogram = _histogram(torch.linspace(0, 1, 100_001))
    for percent in (50.0, 90.0, 99.9):
        assert range_method(f"percentile:{percent}")(histogram, INT8) == pytest.approx(percent / 100, abs=1e-3)
    assert range_method("percentile:100")(histogram, INT8) == histogram.maximum


@pytest.mark.parametrize("bits", [4, 8])
def test_mse_beats_its_neighbours(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.cat((torch.randn(100_000), torch.tensor([40.0])))
    dtype = IntType(bits)

    def error(threshold: float) -> float:
        scale = scale_of(threshold, dtype)
        return float((quantize(x, scale, dtype) * scale - x).square().mean())

    found = range_method("mse")(_histogram(x), dtype)
    assert all(error(found) <= 1.02 * error(found * factor) for factor in (0.7, 0.85, 1.2, 1.5, 40 / found))


def test_entropy_ignores_an_outlier() -> None:
    torch.manual_seed(0)
    histogram = _histogram(torch.cat((torch.randn(200_000), torch.tensor([200.0]))))
    assert range_method("entropy")(histogram, INT8) < 30


def test_auto_chooses_by_width() -> None:
    torch.manual_seed(0)
    histogram = _histogram(torch.randn(100_000))
    for bits, same in ((8, "percentile:99.999"), (4, "mse")):
        assert range_method("auto")(histogram, IntType(bits)) == range_method(same)(histogram, IntType(bits))


@pytest.mark.parametrize("spec", ["median", "percentile:0", "percentile:101", "percentile:x", "minmax:3"])
def test_unknown_methods_and_arguments(spec: str) -> None:
    with pytest.raises(RecipeError):
        range_method(spec)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), chunk=st.integers(1, 10))
def test_rebatch_keeps_images_and_order(sizes: list[int], chunk: int) -> None:
    images = torch.arange(sum(sizes))
    chunks = list(rebatch(iter(images.split(sizes)), chunk))
    assert torch.equal(torch.cat(chunks), images)
    assert all(len(c) == chunk for c in chunks[:-1])


def test_hooks_are_removed_and_ranges_are_those_of_the_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    images = torch.randn(100, 4)
    ranges = collect_ranges(model, {"0": ("input",), "2": ("input",)}, images.split(7))
    assert ranges["0/input"].maximum == float(images.abs().max())
    maxima = collect_channel_maxima(model, ["0"], images.split(9))
    torch.testing.assert_close(maxima["0"], images.abs().amax(0))
    assert not any(module._forward_pre_hooks for module in model.modules())
