"""Features: what networks without a classifier give out, judged by which images they hold alike.

    knn:        for each image, whether its k nearest other images name its class, each with the weight exp(s / 0.07)
    cosine:     of an image's feature and the reference's
    agreement:  whether an image's nearest other image is the same under both

s is the cosine of two images' features. All images are each other's neighbours; an image is never its own (leave one
out). Intervals are over other images to be judged, the images that they are compared with staying as they are. Where
both are drawn anew, the paired drop still keeps its level, and bounds of single figures were missed in up to 12 % of
all cases instead of 5 (docs/log.md).
Source: Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination* (arXiv 1805.01978), whose
classifier, k = 20 and temperature DINO and DINOv2 are evaluated with, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from ..data.loader import Batch
from ..data.source import NO_LABEL
from ..errors import UsageError, parameter
from ..progress import track
from ..quant.quality import sqnr_db
from ..runtime.runtime import Runtime
from .accuracy import run_batch
from .statistics import Interval, bootstrap, share_interval

__all__ = [
    "FeatureAccuracy",
    "FeatureComparison",
    "Neighbours",
    "find_neighbours",
    "measure_features",
    "require_comparable",
]

#: Neighbours that vote, and the temperature of their weights.
K, TEMPERATURE = 20, 0.07
#: Neighbours of which it is counted how many are the reference's, too.
FEW = 5
#: Every image is compared with every other: so many take minutes on a core, and ImageNet's validation set has no more.
MOST_IMAGES = 50_000
#: Cosines, or votes, that are held at a time.
BLOCK = 2**24


def require_comparable(images: int) -> None:
    """Refuse images that are too few to have neighbours, or too many to look for them.

    Raises:
        UsageError: they are.
    """
    if images < 2:
        raise UsageError(
            "Features are judged by an image's nearest other images, and there is one image alone.",
            hint="Give more images.",
        )
    if images > MOST_IMAGES:
        raise UsageError(
            f"Features are judged by comparing every image with every other, and {images:,} images are {images**2:.1e} "
            f"pairs; {MOST_IMAGES:,} images are compared at most.",
            hint=f"Take some of them with {parameter(limit=MOST_IMAGES)}.",
        )


@dataclass(frozen=True)
class Neighbours:
    """The nearest other images of each image, the nearest first.

    Attributes:
        numbers: which they are, int64 [images, k]; -1 where there is none, since a feature is not finite.
        cosines: of the features, float32 [images, k].
    """

    numbers: np.ndarray
    cosines: np.ndarray


def find_neighbours(features: np.ndarray, k: int = K) -> Neighbours:
    """Find the k images (all others, of fewer) that are nearest to each by the cosine of their features [images, E]."""
    units, finite = _units(features)
    images, k = len(units), min(k, len(units) - 1)
    bank, broken = torch.from_numpy(units), torch.from_numpy(~finite)
    numbers, cosines = np.empty((images, k), np.int64), np.empty((images, k), np.float32)
    rows = max(BLOCK // images, 1)
    for first in track(range(0, images, rows), "Comparing images", -(-images // rows)):
        at = slice(first, first + rows)
        similar = bank[at] @ bank.T
        similar[:, broken] = -torch.inf
        similar[broken[at]] = -torch.inf
        similar[torch.arange(len(similar)), torch.arange(first, first + len(similar))] = -torch.inf
        nearest = similar.topk(k)
        known = nearest.values > -torch.inf
        numbers[at] = torch.where(known, nearest.indices, -1).numpy()
        cosines[at] = torch.where(known, nearest.values, 0.0).numpy()
    return Neighbours(numbers, cosines)


def _units(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of length 1 (0 where they have no direction), float32 [images, E], and whether each is finite."""
    finite = np.isfinite(features).all(1)
    known = np.where(finite[:, None], features, np.float32(0))
    # In float64, where no square overflows, and without a copy of all features in it.
    length = np.sqrt(np.einsum("ne,ne->n", known, known, dtype=np.float64, casting="same_kind"))[:, None]
    units = np.empty(known.shape, np.float32)
    return np.divide(known, np.where(length, length, 1.0), out=units, casting="same_kind"), finite


@dataclass(frozen=True)
class FeatureAccuracy:
    """Figures of one artifact, image by image in data order.

    Attributes:
        labels: int64 [images], or None where the images have none.
        not_finite: images with a feature that is NaN or infinite. They count as wrong.
    """

    neighbours: Neighbours
    labels: np.ndarray | None
    not_finite: int = 0

    @cached_property
    def guesses(self) -> np.ndarray:
        """The class that each image's neighbours vote for; of equals the lower one; -1 where it has none."""
        assert self.labels is not None
        names, classes = np.unique(self.labels, return_inverse=True)
        guesses = np.empty(self.images, np.int64)
        rows = max(BLOCK // len(names), 1)
        for first in range(0, self.images, rows):
            at = slice(first, first + rows)
            numbers, cosines = self.neighbours.numbers[at], self.neighbours.cosines[at]
            weights = np.where(numbers < 0, 0.0, np.exp(cosines.astype(np.float64) / TEMPERATURE))
            places = np.arange(len(numbers))[:, None] * len(names) + classes[numbers]
            votes = np.bincount(places.ravel(), weights.ravel(), len(numbers) * len(names)).reshape(-1, len(names))
            guesses[at] = np.where((numbers >= 0).any(1), names[votes.argmax(1)], -1)
        return guesses

    @property
    def correct(self) -> np.ndarray:
        """For each image, whether its neighbours name its class."""
        return self.guesses == self.labels

    @property
    def images(self) -> int:
        """Images counted."""
        return len(self.neighbours.numbers)

    @property
    def chance(self) -> float | None:
        """What the figure would be, in percent, were the same guesses dealt out among the images: that much is luck."""
        if self.labels is None:
            return None
        shares = [np.mean(self.guesses == k) * np.mean(self.labels == k) for k in np.unique(self.labels)]
        return 100 * float(np.sum(shares))

    def to_dict(self) -> dict[str, Any]:
        """`knn` in percent (None where there are no labels), `k`, the neighbours that vote, and `images`; `not_finite`
        where there are such images."""
        return {
            "knn": None if self.labels is None else 100 * float(self.correct.mean()),
            "k": self.neighbours.numbers.shape[1],
            "images": self.images,
        } | ({"not_finite": self.not_finite} if self.not_finite else {})

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """`knn` with its interval, where it is known."""
        if self.labels is None:
            return {}
        return {"knn": share_interval(int(self.correct.sum()), self.images, confidence)}


class Likeness:
    """What can be said of two artifacts' features image by image, batch after batch."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, features: np.ndarray, reference: np.ndarray) -> None:
        """Add a batch of both features [B, E]."""
        finite, known = np.isfinite(features).all(1), np.isfinite(reference).all(1)
        own, theirs = (
            np.where(each[:, None], values, 0.0).astype(np.float64)
            for each, values in ((finite, features), (known, reference))
        )
        signal = np.square(theirs).sum(1)
        # A feature that is not finite is wrong by all that there is.
        noise = np.where(finite & known, np.square(own - theirs).sum(1), signal)
        lengths = np.sqrt(np.square(own).sum(1) * signal)
        cosines = (own * theirs).sum(1) / np.where(lengths, lengths, 1.0)
        self._parts.append((cosines.clip(-1, 1), signal, noise))

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cosines, and the sums of squares of signal and noise, of all images."""
        cosines, signal, noise = map(np.concatenate, zip(*self._parts, strict=True))
        return cosines, signal, noise


@dataclass(frozen=True)
class FeatureComparison:
    """An artifact's features against the reference's, image by image; what is not finite is like nothing.

    Attributes:
        cosines: of both features.
        signal, noise: sums of squares of the reference's feature and of the error.
        nearest: whether the nearest other image is the same.
        few: the share of the `FEW` nearest that both have.
    """

    cosines: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    nearest: np.ndarray
    few: np.ndarray

    @classmethod
    def of(cls, likeness: Likeness, neighbours: Neighbours, reference: Neighbours) -> FeatureComparison:
        """Of features that were compared one by one, and of who is nearest under each."""
        own, theirs = neighbours.numbers[:, :FEW], reference.numbers[:, :FEW]
        shared = (own[:, :, None] == theirs[:, None, :]) & (own >= 0)[:, :, None]
        nearest = (own[:, 0] == theirs[:, 0]) & (own[:, 0] >= 0)
        return cls(*likeness.joined(), nearest, shared.sum((1, 2)) / own.shape[1])

    def to_dict(self) -> dict[str, Any]:
        """`cosine` (the mean), `agreement` (of the nearest other image) and `neighbours` (of the nearest few) in
        percent; `logit_sqnr_db` of the features (None where the reference has none that are numbers)."""
        found = self._figures(0.95, resamples=1)
        return {"logit_sqnr_db": None} | {name: interval.value for name, interval in found.items()}

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """All figures, as far as they are known, with their intervals."""
        return self._figures(confidence)

    def _figures(self, confidence: float, resamples: int = 500) -> dict[str, Interval]:
        images = len(self.cosines)
        drawn = partial(bootstrap, images=images, confidence=confidence, resamples=resamples)
        found = {
            "cosine": drawn(lambda at: 100 * float(self.cosines[at].mean())).within(-100, 100),
            "agreement": share_interval(int(self.nearest.sum()), images, confidence),
            "neighbours": drawn(lambda at: 100 * float(self.few[at].mean())).within(0, 100),
        }
        if self.signal.any():
            found["logit_sqnr_db"] = drawn(
                lambda at: sqnr_db(float(self.signal[at].sum()), float(self.noise[at].sum()))
            )
        return found


def measure_features(
    runtimes: Sequence[Runtime],
    batches: Iterable[Batch],
    on_features: Callable[[Batch, list[np.ndarray]], None] | None = None,
) -> tuple[list[FeatureAccuracy], list[FeatureComparison]]:
    """Show every batch to all artifacts, then compare the images with each other. All features are kept until then.

    Args:
        on_features: called for each batch with all artifacts' features.

    Returns:
        Figures of each artifact, and of each against the first.

    Raises:
        UsageError: too few or too many images.
    """
    kept: list[list[np.ndarray]] = [[] for _ in runtimes]
    alike = [Likeness() for _ in runtimes]
    seen: list[np.ndarray] = []
    for batch in batches:
        features = [run_batch(runtime, batch.images.numpy()) for runtime in runtimes]
        seen.append(batch.labels.numpy())
        for one, own, likeness in zip(features, kept, alike, strict=True):
            own.append(one.astype(np.float32, copy=False))
            likeness.update(one, features[0])
        if on_features is not None:
            on_features(batch, features)
    labels = np.concatenate(seen) if seen else np.empty(0, np.int64)
    require_comparable(len(labels))
    known = None if (labels == NO_LABEL).any() else labels
    accuracies: list[FeatureAccuracy] = []
    for own in kept:
        features_NE = np.concatenate(own)
        own.clear()
        broken = int((~np.isfinite(features_NE).all(1)).sum())
        accuracies.append(FeatureAccuracy(find_neighbours(features_NE), known, broken))
    comparisons = [
        FeatureComparison.of(likeness, accuracy.neighbours, accuracies[0].neighbours)
        for likeness, accuracy in zip(alike, accuracies, strict=True)
    ]
    return accuracies, comparisons
