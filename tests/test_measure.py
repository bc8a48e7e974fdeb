"""Accuracy figures against known answers, intervals against simulation, latency against injected slowness."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illama_deploy.data import Batch
from illama_deploy.measure import Accuracy, Comparison, measure_accuracy, measure_latency, median_ratio, paired_drop
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.runtime import ArtifactInfo, Runtime


class Table(Runtime):
    """Gives the logits it was made with, whatever the images; sleeps first if told to."""

    def __init__(self, logits: np.ndarray, name: str = "table", seconds: float = 0.0) -> None:
        self.logits, self.seconds, self.at = logits.astype(np.float32), seconds, 0
        self.info = ArtifactInfo(name, "float32", "table", "CPU", 0, "0" * 64)
        self.preprocessing = Preprocessing(size=(2, 2), mean=(0.0,), std=(1.0,))
        self.classes, self.threads = logits.shape[1], 1

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        start, self.at = self.at, (self.at + len(images_BCHW)) % len(self.logits)
        return self.logits[start : start + len(images_BCHW)]


def _batches(labels: np.ndarray, size: int) -> list[Batch]:
    parts = torch.from_numpy(labels).split(size)
    return [Batch(torch.zeros(len(part), 1, 2, 2), part) for part in parts]


def test_figures_of_known_logits() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.5, 0.1], [0.2, 0.2, 0.6]]))
    labels = np.array([0, 0, 1, 1])
    accuracy = Accuracy(top_k=2)
    accuracy.update(logits + 3.0, labels)  # a common offset changes no probability
    figures = accuracy.to_dict()
    assert figures["top1"] == 50.0
    assert figures["top5"] == 50.0  # the last image's right class shares second place with a lower one
    assert figures["nll"] == pytest.approx(-np.log([0.7, 0.1, 0.5, 0.2]).mean())
    # bins of 1/15: 0.7 alone, 0.6 twice (both wrong), 0.5 alone
    assert figures["ece"] == pytest.approx((0.3 + 2 * 0.6 + 0.5) / 4)
    assert figures["images"] == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_figures_do_not_depend_on_batches(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(40, 6)), rng.integers(0, 6, 40)
    whole, parts = Accuracy(5), Accuracy(5)
    whole.update(logits, labels)
    for start in range(0, 40, size):
        parts.update(logits[start : start + size], labels[start : start + size])
    for key, value in whole.to_dict().items():
        assert parts.to_dict()[key] == pytest.approx(value)


def test_comparison() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(10_000, 4))
    comparison = Comparison()
    comparison.update(reference + 0.1 * rng.normal(size=reference.shape), reference)
    assert comparison.to_dict()["logit_sqnr_db"] == pytest.approx(20, abs=0.2)
    same = Comparison()
    same.update(reference, reference)
    assert same.to_dict() == {"agreement": 100.0, "logit_sqnr_db": 200.0}


def test_all_artefacts_see_the_same_images() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    changed = logits.copy()
    changed[:3] = -changed[:3]
    accuracies, comparisons = measure_accuracy([Table(logits), Table(changed)], _batches(labels, 7))
    assert accuracies[0].correct.tolist() == (logits.argmax(1) == labels).tolist()
    assert comparisons[0].to_dict()["agreement"] == 100
    assert comparisons[1].to_dict()["agreement"] == pytest.approx(90)


@pytest.mark.parametrize("discordant", [0.01, 0.05])
@pytest.mark.parametrize("images", [500, 5000])
def test_paired_bounds_hold_as_often_as_they_say(images: int, discordant: float) -> None:
    """Simulated pairs whose true drop is known: each one-sided 95 % bound may miss in about 5 % of them."""
    rng = np.random.default_rng(0)
    drop = 0.4 * discordant
    lost = (discordant + drop) / 2
    outcomes = rng.choice(3, (1500, images), p=[lost, discordant - lost, 1 - discordant])
    baseline, candidate = outcomes != 1, outcomes != 0
    bounds = [paired_drop(b, c) for b, c in zip(baseline, candidate, strict=True)]
    assert np.mean([bound.high < 100 * drop for bound in bounds]) < 0.065
    assert np.mean([bound.low > 100 * drop for bound in bounds]) < 0.065


def test_paired_drop_of_identical_answers_is_not_certain() -> None:
    few, many = (paired_drop(np.ones(n, bool), np.ones(n, bool)) for n in (100, 10_000))
    assert few.value == many.value == 0
    assert few.high > 1
    assert 0 < many.high < 0.1


def test_ratio_interval_covers_the_truth_on_drifting_times() -> None:
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(200):
        drift = 1 + 0.3 * np.sin(np.arange(300) / 17 + rng.uniform(0, 6))
        base, other = (drift * rng.gamma(50, 1 / 50, 300) for _ in range(2))
        interval = median_ratio(1.2 * other, base)
        misses += not interval.low <= 1.2 <= interval.high
    assert misses / 200 < 0.16  # 10 % are meant


def test_slowness_is_found_where_it_is() -> None:
    logits = np.zeros((8, 3))
    base, slow = Table(logits, "base", 0.002), Table(logits, "slow", 0.003)
    first, second = measure_latency([base, slow], 2, rounds=40)
    assert first.ratio.value == first.ratio.low == first.ratio.high == 1.0
    assert second.ratio.low > 1.15
    assert second.to_dict()["images_per_s"] < first.to_dict()["images_per_s"]


def test_percentiles_need_samples() -> None:
    latency = measure_latency([Table(np.zeros((8, 3)))], 1, rounds=120)[0].to_dict()
    assert latency["rounds"] == 120
    assert latency["p90_ms"] >= latency["p50_ms"]
    assert latency["p99_ms"] is None
