"""Accuracy figures against known answers, intervals against simulation, latency against injected slowness."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illama_deploy.data import Batch
from illama_deploy.measure import (
    Accuracy,
    Comparison,
    Conditions,
    Interval,
    Latency,
    condition_notes,
    measure_accuracy,
    measure_latency,
    median_ratio,
    pack_correct,
    paired_drop,
    quotient,
    unpack_correct,
)
from illama_deploy.measure.statistics import bootstrap, share_interval
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.report import Gate, Verdict
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


def test_all_artifacts_see_the_same_images() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    changed = logits.copy()
    changed[:3] = -changed[:3]
    accuracies, comparisons = measure_accuracy([Table(logits), Table(changed)], _batches(labels, 7))
    assert accuracies[0].correct.tolist() == (logits.argmax(1) == labels).tolist()
    assert comparisons[0].to_dict()["agreement"] == 100
    assert comparisons[1].to_dict()["agreement"] == pytest.approx(90)


def _pair(lost: int, won: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a baseline and a candidate that differ as often as said."""
    at = np.arange(images)
    return ~((at >= lost) & (at < lost + won)), ~(at < lost)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "limit", "won"),
    [(500, 0.5, 0.0), (898, 0.5, 0.1), (1000, 0.5, 2.0), (2000, 0.2, 0.0), (200, 2.0, 0.0), (2000, 0.5, 1.0)],
)
def test_accuracy_gate_passes_too_often_in_no_case(images: int, limit: float, won: float) -> None:
    """A candidate whose true drop is the limit: the chances of all outcomes that pass add up to 5 % at most.

    In half of these cases Bonett and Price's interval passes 8 to 9 %.
    """
    p_won, p_lost = won / 100, (won + limit) / 100
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, images + 1)))])
    # Beyond these counts nothing passes, or its chance is nothing.
    most_won = int(images * p_won + 8 * np.sqrt(images * p_won + 1)) + 2 if won else 0
    most_lost = min(most_won + int(images * limit / 100) + 1, images)
    passing = 0.0
    for lost in range(most_lost + 1):
        for gained in range(most_won + 1):
            same = images - lost - gained
            if paired_drop(*_pair(lost, gained, images)).high <= limit:
                chance = log_factorial[images] - log_factorial[[lost, gained, same]].sum()
                chance += lost * np.log(p_lost) + (gained * np.log(p_won) if gained else 0.0)
                passing += np.exp(chance + same * np.log1p(-p_lost - p_won))
    assert passing <= 0.05
    assert passing > 0.03 or won < 1  # where they disagree often, no chance is given away


@pytest.mark.slow
def test_accuracy_gate_on_simulated_pairs() -> None:
    """10,000 pairs of models whose true drop is the limit, 0.5 points of 1,000 images."""
    counts = np.random.default_rng(0).multinomial(1000, [0.01, 0.005, 0.985], 10_000)
    drops = [paired_drop(*_pair(lost, won, 1000)) for lost, won, _ in counts]
    verdicts = [Gate.judge("accuracy_drop", "candidate", "", 0.5, drop).verdict for drop in drops]
    assert verdicts.count(Verdict.PASS) <= 500
    assert verdicts.count(Verdict.FAIL) <= 500
    assert verdicts.count(Verdict.INCONCLUSIVE) > 9000


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 3000))
def test_paired_drop_is_the_same_from_both_sides(lost: int, won: int, images: int) -> None:
    drop, gain = paired_drop(*_pair(lost, won, images)), paired_drop(*_pair(won, lost, images))
    assert drop.low < drop.value < drop.high
    assert (drop.value, drop.low, drop.high) == pytest.approx((-gain.value, -gain.high, -gain.low))


def test_paired_drop_of_identical_answers_is_not_certain() -> None:
    few, many = (paired_drop(np.ones(n, bool), np.ones(n, bool)) for n in (100, 10_000))
    assert few.value == many.value == 0
    assert few.high > 1
    assert 0 < many.high < 0.1


def test_share_interval_is_wilsons() -> None:
    """His interval for 0 of 10 at 95 %, both sides, as textbooks print it."""
    assert share_interval(0, 10, 0.975) == pytest.approx((0.0, 0.0, 27.75), abs=0.01)
    assert share_interval(8, 10, 0.975) == pytest.approx((80.0, 49.02, 94.33), abs=0.01)


@pytest.mark.slow
def test_bootstrap_bounds_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(150):
        signal, noise = rng.gamma(2, 5, 300), rng.gamma(1, 0.1, 300)
        bound = bootstrap(lambda at, s=signal, n=noise: float(10 * np.log10(s[at].sum() / n[at].sum())), 300)
        missed += not bound.low <= 20.0 <= bound.high
    assert missed / 150 < 0.17  # 10 % are meant


def test_quotient_of_independent_ratios() -> None:
    """Of normal logarithms the distances of the bounds add as squares."""
    above, below = Interval(0.5, 0.5 / 1.03, 0.5 * 1.03), Interval(0.4, 0.4 / 1.04, 0.4 * 1.04)
    both = np.exp(np.hypot(np.log(1.03), np.log(1.04)))
    assert quotient(above, below) == pytest.approx((1.25, 1.25 / both, 1.25 * both))


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_answers_are_kept_bit_by_bit(answers: list[bool]) -> None:
    assert unpack_correct(pack_correct(np.array(answers)), len(answers)).tolist() == answers


def test_logits_that_are_no_numbers_count_as_wrong() -> None:
    logits, labels = np.eye(4) * 5, np.arange(4)
    broken = logits.copy()
    broken[0], broken[1, 1] = np.nan, np.inf
    accuracy, comparison = Accuracy(top_k=2), Comparison()
    accuracy.update(broken, labels)
    comparison.update(broken, logits)
    figures = accuracy.to_dict() | comparison.to_dict()
    assert (figures["top1"], figures["agreement"], figures["not_finite"]) == (50.0, 50.0, 2)
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["logit_sqnr_db"] == pytest.approx(10 * np.log10(2))  # half of the signal is lost
    whole = Accuracy(top_k=2)
    whole.update(logits, labels)
    assert "not_finite" not in whole.to_dict()


def test_intervals_hold_their_figures() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(400, 5)), rng.integers(0, 5, 400)
    accuracy, comparison = Accuracy(3), Comparison()
    accuracy.update(logits, labels)
    comparison.update(logits + 0.1, logits)
    for one in (accuracy, comparison):
        for name, interval in one.intervals(0.9).items():
            assert interval.low <= interval.value <= interval.high
            assert interval.value == pytest.approx(one.to_dict()[name])


def _latency(seconds: np.ndarray) -> Latency:
    return Latency(1, 1, 5, seconds, Interval(1, 1, 1))


def test_unsteady_times_are_said() -> None:
    rng = np.random.default_rng(0)
    steady = _latency(0.01 * rng.normal(1, 0.01, 400))
    assert (steady.outliers, round(steady.cv, 2)) == (0, 0.01)
    assert abs(steady.drift - 1) < 0.01
    spoilt = steady.seconds.copy()
    spoilt[::50] *= 3
    assert _latency(spoilt).outliers == 8
    throttled = steady.seconds * np.linspace(1, 1.4, 400)
    assert _latency(throttled).drift == pytest.approx(1.35 / 1.05, abs=0.01)
    assert len(steady.to_dict()["quantiles_ms"]) == 41


QUIET = {"cpu_mhz": [2000.0, 2050.0], "load_before": 0.1, "stolen": 0.0, "gpus": []}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"cpu_mhz": None, "load_before": None, "stolen": None}, None),
        ({"cpu_mhz": [1200.0, 2400.0]}, "between 1200 and 2400 MHz"),
        ({"load_before": 1.5}, "busy"),
        ({"stolen": 0.05}, "5 %"),
        (
            {"gpus": [{"name": "A GPU", "sm_mhz": [900, 1400], "celsius": 84, "throttled": ["heat (hardware)"]}]},
            "84 °C",
        ),
    ],
    ids=["quiet", "hidden", "clock", "load", "stolen", "gpu"],
)
def test_conditions_are_told(changed: dict[str, object], says: str | None) -> None:
    notes = condition_notes({**QUIET, **changed})
    assert notes == [] if says is None else says in notes[0]


def test_conditions_of_this_machine_and_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class NvmlError(Exception):
        pass

    clocks = iter([1400, 900])
    nvml = SimpleNamespace(
        NVMLError=NvmlError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetClockInfo=lambda device, kind: next(clocks),
        nvmlDeviceGetTemperature=lambda device, kind: 71,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda device: 0x44,
        nvmlDeviceGetName=lambda device: "A GPU",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    conditions = Conditions()
    conditions.sample()  # too soon
    monkeypatch.setattr("illama_deploy.measure.conditions.EVERY", 0.0)
    conditions.sample()
    found = conditions.to_dict()
    assert found["gpus"] == [
        {"name": "A GPU", "sm_mhz": [900, 1400], "celsius": 71, "throttled": ["power limit", "heat (hardware)"]}
    ]
    assert set(found) == set(QUIET)
    nvml.nvmlInit = lambda: (_ for _ in ()).throw(NvmlError)
    assert Conditions().to_dict()["gpus"] == []


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [30, 300])
def test_ratio_interval_covers_the_truth_on_drifting_times(rounds: int) -> None:
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(200):
        drift = 1 + 0.3 * np.sin(np.arange(rounds) / 17 + rng.uniform(0, 6))
        base, other = (drift * rng.gamma(50, 1 / 50, rounds) for _ in range(2))
        interval = median_ratio(1.2 * other, base)
        misses += not interval.low <= 1.2 <= interval.high
    assert misses / 200 < 0.16  # 10 % are meant


def test_few_rounds_are_not_certain() -> None:
    rng = np.random.default_rng(0)
    interval = median_ratio(rng.gamma(50, 1 / 50, 10), rng.gamma(50, 1 / 50, 10))
    assert interval.high - interval.low > 0.05


def test_bounds_of_a_ratio_stay_positive_on_a_machine_in_turmoil() -> None:
    rng = np.random.default_rng(0)
    interval = median_ratio(rng.lognormal(0, 2, 10), rng.lognormal(0, 2, 10))
    assert 0 < 4 * interval.low < interval.value < interval.high / 2
    assert all(np.isfinite(quotient(interval, interval)))


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
