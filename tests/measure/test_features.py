"""Figures of features against a plain computation, image by image and pair by pair."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from illama_deploy.data import Batch
from illama_deploy.data.source import NO_LABEL
from illama_deploy.errors import UsageError
from illama_deploy.measure import FeatureAccuracy, FeatureComparison, features, measure_features, paired_drop
from illama_deploy.measure.features import find_neighbours

from .test_measure import Table, _batches


def plain_cosines(values: np.ndarray) -> np.ndarray:
    """Of every image with every other, float64; an image with itself: nothing is below it."""
    lengths = [math.sqrt(float((row.astype(np.float64) ** 2).sum())) for row in values]
    found = np.full((len(values), len(values)), -2.0)
    for i, one in enumerate(values.astype(np.float64)):
        for j, other in enumerate(values.astype(np.float64)):
            if i != j:
                found[i, j] = float(one @ other) / (lengths[i] * lengths[j])
    return found


def plain_order(values: np.ndarray) -> list[list[int]]:
    """The other images of each image, the nearest first."""
    return [sorted(range(len(row)), key=lambda j: -row[j])[:-1] for row in plain_cosines(values)]


def plain_knn(values: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Leave one out, weights exp(s / 0.07), in percent."""
    cosines, right = plain_cosines(values), 0
    for i, order in enumerate(plain_order(values)):
        votes: dict[int, float] = {}
        for j in order[:k]:
            votes[int(labels[j])] = votes.get(int(labels[j]), 0.0) + math.exp(cosines[i, j] / 0.07)
        right += max(sorted(votes), key=lambda label: votes[label]) == labels[i]
    return 100 * right / len(labels)


def shared_nearest(one: list[list[int]], other: list[list[int]], k: int) -> float:
    """The share of the k nearest that two orders have in common, in percent."""
    return 100 * float(np.mean([len(set(a[:k]) & set(b[:k])) / k for a, b in zip(one, other, strict=True)]))


def _drawn(images: int = 70, classes: int = 4, width: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that know something of the classes, and labels with gaps in their numbers."""
    rng = np.random.default_rng(seed)
    labels = 3 * rng.integers(0, classes, images)
    centres = rng.standard_normal((3 * classes, width))
    return (centres[labels] + 1.5 * rng.standard_normal((images, width))).astype(np.float32), labels


def _measured(
    *values: np.ndarray, labels: np.ndarray, batch: int = 16
) -> tuple[list[FeatureAccuracy], list[FeatureComparison]]:
    return measure_features([Table(one) for one in values], _batches(labels, batch))


def test_figures_are_those_of_a_plain_computation() -> None:
    reference, labels = _drawn()
    noisy = reference + np.random.default_rng(1).standard_normal(reference.shape).astype(np.float32)
    accuracies, comparisons = _measured(reference, noisy, labels=labels)
    for values, accuracy in zip((reference, noisy), accuracies, strict=True):
        found = accuracy.to_dict()
        assert found == {"knn": pytest.approx(plain_knn(values, labels, 20)), "k": 20, "images": 70}
        low, high = accuracy.intervals(0.95)["knn"][1:]
        assert low < found["knn"] < high
    orders = plain_order(reference), plain_order(noisy)
    found = comparisons[1].to_dict()
    pairs = zip(reference.astype(np.float64), noisy.astype(np.float64), strict=True)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    noise = np.square(noisy.astype(np.float64) - reference).sum()
    assert found == {
        "cosine": pytest.approx(100 * np.mean(cosines)),
        "agreement": pytest.approx(shared_nearest(*orders, 1)),
        "neighbours": pytest.approx(shared_nearest(*orders, 5)),
        "logit_sqnr_db": pytest.approx(10 * math.log10(np.square(reference.astype(np.float64)).sum() / noise)),
    }
    assert 10 < found["agreement"] < 90  # so that something was to be seen
    intervals = comparisons[1].intervals(0.95)
    assert all(intervals[name].low < value < intervals[name].high for name, value in found.items())
    assert comparisons[1].intervals(0.95) == intervals


def test_an_artifact_agrees_with_itself() -> None:
    values, labels = _drawn()
    _, comparisons = _measured(values, values.copy(), 3 * values, labels=labels)
    for comparison in comparisons[:2]:
        assert comparison.to_dict() == {"cosine": 100, "agreement": 100, "neighbours": 100, "logit_sqnr_db": 200}
    larger = comparisons[2].to_dict()  # the same directions; only the SQNR looks at lengths
    assert (larger["cosine"], larger["agreement"], larger["neighbours"]) == (pytest.approx(100), 100, 100)
    assert larger["logit_sqnr_db"] == pytest.approx(10 * math.log10(1 / 4))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = _drawn()
    whole = _measured(values, labels=labels)[0][0]
    monkeypatch.setattr(features, "BLOCK", 3 * len(values))
    parts = _measured(values, labels=labels, batch=7)[0][0]
    assert np.array_equal(whole.neighbours.numbers, parts.neighbours.numbers)
    assert np.array_equal(whole.guesses, parts.guesses)


def test_few_images_have_fewer_neighbours() -> None:
    values, labels = _drawn(images=3)
    accuracies, comparisons = _measured(values, values, labels=labels)
    assert accuracies[0].to_dict()["k"] == 2
    assert comparisons[1].to_dict()["neighbours"] == 100


def test_features_that_are_no_numbers_are_like_nothing() -> None:
    values, labels = _drawn()
    broken = values.copy()
    broken[3], broken[40, 5] = np.nan, np.inf
    accuracies, comparisons = _measured(values, broken, labels=labels)
    whole, accuracy = accuracies
    assert accuracy.to_dict()["not_finite"] == 2
    assert not accuracy.correct[[3, 40]].any()
    assert set(accuracy.neighbours.numbers[[3, 40]].ravel()) == {-1}
    assert not np.isin(np.delete(accuracy.neighbours.numbers, [3, 40], 0), [3, 40, -1]).any()
    same, _, noise = comparisons[1].nearest, comparisons[1].signal, comparisons[1].noise
    assert not same[[3, 40]].any()
    # Others disagree only where their nearest is one of the two.
    others = np.delete(np.arange(len(values)), [3, 40])
    assert np.array_equal(same[others], ~np.isin(whole.neighbours.numbers[others, 0], [3, 40]))
    assert noise[[3, 40]] == pytest.approx(np.square(values[[3, 40]]).sum(1), rel=1e-5)
    assert noise[others].sum() == 0
    # Of a reference without a number nothing can be said in decibels, and nothing agrees.
    nothing = _measured(np.full_like(values, np.nan), np.full_like(values, np.nan), labels=labels)[1][1]
    assert nothing.to_dict() == {"logit_sqnr_db": None, "cosine": 0, "agreement": 0, "neighbours": 0}
    assert "logit_sqnr_db" not in nothing.intervals(0.95)


def test_features_without_a_direction() -> None:
    values, labels = _drawn()
    accuracies, comparisons = _measured(values, np.zeros_like(values), labels=labels)
    assert "not_finite" not in accuracies[1].to_dict()
    assert comparisons[1].to_dict()["cosine"] == 0
    assert comparisons[1].to_dict()["logit_sqnr_db"] == 0


def test_images_without_labels() -> None:
    values, labels = _drawn()
    accuracies, comparisons = _measured(values, values + 1, labels=np.full_like(labels, NO_LABEL))
    assert accuracies[1].to_dict() == {"knn": None, "k": 20, "images": 70}
    assert (accuracies[1].chance, accuracies[1].intervals(0.95)) == (None, {})
    assert 0 < comparisons[1].to_dict()["agreement"] < 100


def test_chance_is_what_the_guesses_are_worth() -> None:
    labels = np.repeat([0, 1], [90, 10])
    values = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    [accuracy], _ = _measured(values, labels=labels)
    majority = float(np.mean(accuracy.guesses == 0))
    assert accuracy.chance == pytest.approx(100 * (0.9 * majority + 0.1 * (1 - majority)))
    assert abs(accuracy.to_dict()["knn"] - accuracy.chance) < 10


def test_equal_votes_go_to_the_lower_class() -> None:
    """Two images at the same angle on either side."""
    values = np.array([[1, 0], [1, 1], [1, -1]], np.float32)
    [accuracy], _ = _measured(values, labels=np.array([5, 7, 5]))
    assert accuracy.guesses[0] == 5
    assert find_neighbours(values).cosines[0] == pytest.approx([math.sqrt(0.5)] * 2)


@pytest.mark.slow
def test_the_drop_keeps_its_level_though_images_are_each_others_neighbours() -> None:
    """Images drawn anew, to judge and to be compared with: the mean drop lies beyond a bound of 95 % in 1 of 20."""
    rng = np.random.default_rng(0)
    centres, drops = rng.standard_normal((10, 16)), []
    for _ in range(400):
        labels = rng.integers(0, 10, 100)
        float_ = centres[labels] + rng.standard_normal((100, 16))
        noisy = float_ + 0.3 * rng.standard_normal(float_.shape)
        before, after = (FeatureAccuracy(find_neighbours(values), labels).correct for values in (float_, noisy))
        drops.append(paired_drop(before, after, 0.95))
    values, lows, highs = np.array(drops).T
    assert 1 < values.mean() < 5
    assert np.mean(highs < values.mean()) < 0.08
    assert np.mean(lows > values.mean()) < 0.08


def test_numbers_of_images_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = _drawn()
    with pytest.raises(UsageError, match="one image alone"):
        _measured(values[:1], labels=labels[:1])
    monkeypatch.setattr(features, "MOST_IMAGES", 69)
    with pytest.raises(UsageError, match=r"70 images are 4\.9e\+03 pairs; 69 images are compared at most") as refused:
        _measured(values, labels=labels)
    assert "limit=69" in str(refused.value.hint)


def test_every_batch_is_shown(tmp_path: Path) -> None:
    values, labels = _drawn()
    seen: list[np.ndarray] = []

    def keep(batch: Batch, outputs: list[np.ndarray]) -> None:
        assert torch.is_tensor(batch.labels)
        seen.append(outputs[1])

    measure_features([Table(values), Table(2 * values)], _batches(labels, 16), keep)
    assert np.array_equal(np.concatenate(seen), 2 * values)
