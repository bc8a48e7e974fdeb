"""Accuracy of one or more artefacts over the same images, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.loader import Batch
from ..quant.quality import sqnr_db
from ..runtime.runtime import Runtime

__all__ = ["ECE_BINS", "Accuracy", "Comparison", "measure_accuracy"]

ECE_BINS = 15  # as in the paper


@dataclass
class Accuracy:
    """Running figures of one artefact.

    Attributes:
        correct: for each image in data order, whether the first guess is right.
    """

    top_k: int
    _correct: list[np.ndarray] = field(default_factory=list)
    _top_k: int = 0
    _nll: float = 0.0
    _bins: np.ndarray = field(default_factory=lambda: np.zeros((3, ECE_BINS)))

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits [B, classes], labels [B]."""
        logits = logits.astype(np.float64)
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        correct = logits.argmax(1) == labels
        self._correct.append(correct)
        # Rank of the right class: how many are ahead of it; among equals the lower number is, as for argmax.
        own = logits[np.arange(len(labels)), labels][:, None]
        before = np.arange(logits.shape[1]) < labels[:, None]
        ahead = ((logits > own) | ((logits == own) & before)).sum(1)
        self._top_k += int((ahead < self.top_k).sum())
        self._nll -= float(log_p[np.arange(len(labels)), labels].sum())
        confidence = np.exp(log_p.max(1))
        bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
        for row, weight in enumerate((np.ones(len(labels)), correct, confidence)):
            self._bins[row] += np.bincount(bins, weight, ECE_BINS)

    @property
    def correct(self) -> np.ndarray:
        return np.concatenate(self._correct) if self._correct else np.zeros(0, dtype=bool)

    @property
    def images(self) -> int:
        """Images counted."""
        return int(self._bins[0].sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over equal-width bins of |accuracy - confidence|, weighted by count."""
        count, correct, confidence = self._bins
        return float(np.abs(correct - confidence).sum() / max(count.sum(), 1))

    def to_dict(self) -> dict[str, Any]:
        """`top1` and `top5` in percent, `ece`, `nll`, `images`."""
        images = max(self.images, 1)
        return {
            "top1": 100 * float(self.correct.sum()) / images,
            "top5": 100 * self._top_k / images,
            "ece": self.ece,
            "nll": self._nll / images,
            "images": self.images,
        }


@dataclass
class Comparison:
    """Running comparison of an artefact's logits with the reference's."""

    _same: int = 0
    _images: int = 0
    _signal: float = 0.0
    _noise: float = 0.0

    def update(self, logits: np.ndarray, reference: np.ndarray) -> None:
        """Add a batch of both logits."""
        self._same += int((logits.argmax(1) == reference.argmax(1)).sum())
        self._images += len(logits)
        self._signal += float(np.square(reference, dtype=np.float64).sum())
        self._noise += float(np.square(logits.astype(np.float64) - reference).sum())

    def to_dict(self) -> dict[str, Any]:
        """`agreement` of the first guesses in percent, `logit_sqnr_db`."""
        return {
            "agreement": 100 * self._same / max(self._images, 1),
            "logit_sqnr_db": sqnr_db(self._signal, self._noise),
        }


def measure_accuracy(
    runtimes: Sequence[Runtime],
    batches: Iterable[Batch],
    on_logits: Callable[[list[np.ndarray], np.ndarray], None] | None = None,
) -> tuple[list[Accuracy], list[Comparison]]:
    """Feed every batch to all artefacts.

    Args:
        on_logits: called for each batch with all artefacts' logits and the labels.

    Returns:
        Figures of each artefact, and of each against the first.
    """
    accuracies = [Accuracy(min(5, runtime.classes)) for runtime in runtimes]
    comparisons = [Comparison() for _ in runtimes]
    for batch in batches:
        images, labels = batch.images.numpy(), batch.labels.numpy()
        logits = [_run(runtime, images) for runtime in runtimes]
        for one, accuracy, comparison in zip(logits, accuracies, comparisons, strict=True):
            accuracy.update(one, labels)
            comparison.update(one, logits[0])
        if on_logits is not None:
            on_logits(logits, labels)
    return accuracies, comparisons


def _run(runtime: Runtime, images: np.ndarray) -> np.ndarray:
    """Run a batch; the data's last one is filled up where the artefact takes no batch as small."""
    missing = 0 if runtime.batches is None else runtime.batches.smallest - len(images)
    if missing <= 0:
        return runtime.run(images)
    return runtime.run(np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]))[: len(images)]
