"""Accuracy of one or more artifacts over the same images, in one pass."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..data.loader import Batch
from ..quant.quality import sqnr_db
from ..runtime.runtime import Runtime
from .reliability import PAPER_BINNING, Binning, calibration_error, log_softmax
from .statistics import Interval, bootstrap, mean_interval, share_interval

__all__ = ["Accuracy", "Comparison", "measure_accuracy", "pack_correct", "run_batch", "unpack_correct"]


@dataclass
class Accuracy:
    """Figures of one artifact, image by image in data order.

    Attributes:
        binning: for the calibration error.
        not_finite: images with a logit that is NaN or infinite. They count as wrong, and as fully uncertain.
    """

    top_k: int
    binning: Binning = PAPER_BINNING
    not_finite: int = 0
    _correct: list[np.ndarray] = field(default_factory=list)
    _in_top_k: list[np.ndarray] = field(default_factory=list)
    _nll: list[np.ndarray] = field(default_factory=list)
    _brier: list[np.ndarray] = field(default_factory=list)
    _confidence: list[np.ndarray] = field(default_factory=list)
    _guesses: list[np.ndarray] = field(default_factory=list)
    _labels: list[np.ndarray] = field(default_factory=list)

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits [B, classes], labels [B]."""
        logits = logits.astype(np.float64)
        finite = np.isfinite(logits).all(1)
        self.not_finite += int((~finite).sum())
        logits = np.where(finite[:, None], logits, 0.0)
        log_p = log_softmax(logits)
        self._correct.append((logits.argmax(1) == labels) & finite)
        # Rank of the right class: how many are ahead of it; among equals the lower number is, as for argmax.
        own = logits[np.arange(len(labels)), labels][:, None]
        before = np.arange(logits.shape[1]) < labels[:, None]
        ahead = ((logits > own) | ((logits == own) & before)).sum(1)
        self._in_top_k.append((ahead < self.top_k) & finite)
        own_log_p = log_p[np.arange(len(labels)), labels]
        self._nll.append(-own_log_p)
        self._brier.append(np.exp(2 * log_p).sum(1) - 2 * np.exp(own_log_p) + 1)
        self._confidence.append(np.exp(log_p.max(1)))
        self._guesses.append(np.where(finite, logits.argmax(1), -1))
        self._labels.append(labels)

    @property
    def correct(self) -> np.ndarray:
        """For each image, whether the first guess is right."""
        return np.concatenate(self._correct) if self._correct else np.zeros(0, dtype=bool)

    @property
    def images(self) -> int:
        """Images counted."""
        return sum(map(len, self._correct))

    @property
    def chance(self) -> float:
        """What top-1 would be, in percent, were the same guesses dealt out among the images: that much is luck."""
        if not self.images:
            return 0.0
        guesses, labels = (np.concatenate(parts) for parts in (self._guesses, self._labels))
        shares = [np.mean(guesses == k) * np.mean(labels == k) for k in np.unique(labels)]
        return 100 * float(np.sum(shares))

    @property
    def confidence(self) -> np.ndarray:
        """For each image, the first guess's probability."""
        return np.concatenate(self._confidence) if self._confidence else np.zeros(0)

    @property
    def reliability(self) -> np.ndarray:
        """Bins of confidence: count, right answers, summed confidence [3, bins]."""
        return self.binning.reliability(self.correct, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """`top1` and `top5` in percent, `ece`, `nll`, `brier`, `images`; `not_finite` where there are such images.

        The Brier score is the squared distance of the probabilities from the answer, summed over classes: 0 to 2.
        """
        images = max(self.images, 1)
        return {
            "top1": 100 * float(self.correct.sum()) / images,
            "top5": 100 * float(sum(map(np.sum, self._in_top_k))) / images,
            "ece": calibration_error(self.reliability),
            "nll": float(sum(map(np.sum, self._nll))) / images,
            "brier": float(sum(map(np.sum, self._brier))) / images,
            "images": self.images,
        } | ({"not_finite": self.not_finite} if self.not_finite else {})

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """The figures of `to_dict` with their intervals over other images like these; no bound lies where no figure
        can, and of one image alone `nll` and `brier` have none."""
        correct, certainty, n = self.correct, self.confidence, self.images
        found = {
            "top1": share_interval(int(correct.sum()), n, confidence),
            "top5": share_interval(int(np.concatenate(self._in_top_k).sum()), n, confidence),
            "ece": bootstrap(
                lambda at: calibration_error(self.binning.reliability(correct[at], certainty[at])), n, confidence
            ).within(0, 1),
        }
        if n > 1:
            found["nll"] = mean_interval(np.concatenate(self._nll), confidence).within(0)
            found["brier"] = mean_interval(np.concatenate(self._brier), confidence).within(0, 2)
        return found

    def diagram(self) -> dict[str, Any]:
        """The reliability diagram as plain values: `edges` [bins + 1], and in `reliability` for each bin its images,
        how many of them are right, and their mean confidence (None where it is empty)."""
        return {
            "edges": self.binning.edges(self.confidence).tolist(),
            "reliability": [
                [int(count), int(right), float(sure / count) if count else None]
                for count, right, sure in self.reliability.T
            ],
        }


@dataclass
class Comparison:
    """Comparison of an artifact's logits with the reference's, image by image; what is not finite disagrees."""

    _same: list[np.ndarray] = field(default_factory=list)
    _signal: list[np.ndarray] = field(default_factory=list)
    _noise: list[np.ndarray] = field(default_factory=list)

    def update(self, logits: np.ndarray, reference: np.ndarray) -> None:
        """Add a batch of both logits."""
        with np.errstate(invalid="ignore"):  # of two infinities; they disagree
            wrong = logits.astype(np.float64) - reference
        finite = np.isfinite(wrong).all(1)
        known = np.isfinite(reference).all(1)
        signal = np.square(np.where(known[:, None], reference, 0.0), dtype=np.float64).sum(1)
        self._same.append((logits.argmax(1) == reference.argmax(1)) & finite)
        self._signal.append(signal)
        self._noise.append(np.where(finite, np.square(np.where(finite[:, None], wrong, 0.0)).sum(1), signal))

    def to_dict(self) -> dict[str, Any]:
        """`agreement` of the first guesses in percent, `logit_sqnr_db` (None where the reference has no logits that are
        numbers)."""
        found = self._figures(0.95, resamples=1)
        return {"logit_sqnr_db": None} | {name: interval.value for name, interval in found.items()}

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """Both figures, as far as they are known, with their intervals over other images like these."""
        return self._figures(confidence)

    def _figures(self, confidence: float, resamples: int = 500) -> dict[str, Interval]:
        same, signal, noise = map(np.concatenate, (self._same, self._signal, self._noise))
        found = {"agreement": share_interval(int(same.sum()), len(same), confidence)}
        if signal.any():
            found["logit_sqnr_db"] = bootstrap(
                partial(_sqnr_at, signal, noise), len(same), confidence, resamples=resamples
            )
        return found


def _sqnr_at(signal: np.ndarray, noise: np.ndarray, at: np.ndarray) -> float:
    return sqnr_db(float(signal[at].sum()), float(noise[at].sum()))


def pack_correct(correct: np.ndarray) -> str:
    """Right or wrong for each image as text, 8 images to a byte: what a later report needs for a paired interval."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack_correct(text: str, images: int) -> np.ndarray:
    """The inverse of `pack_correct`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=images).astype(bool)


def measure_accuracy(
    runtimes: Sequence[Runtime],
    batches: Iterable[Batch],
    on_logits: Callable[[Batch, list[np.ndarray]], None] | None = None,
    binning: Binning = PAPER_BINNING,
) -> tuple[list[Accuracy], list[Comparison]]:
    """Feed every batch to all artifacts.

    Args:
        on_logits: called for each batch with all artifacts' logits.
        binning: for calibration errors.

    Returns:
        Figures of each artifact, and of each against the first.
    """
    accuracies = [Accuracy(min(5, runtime.classes), binning) for runtime in runtimes]
    comparisons = [Comparison() for _ in runtimes]
    for batch in batches:
        images, labels = batch.images.numpy(), batch.labels.numpy()
        logits = [run_batch(runtime, images) for runtime in runtimes]
        for one, accuracy, comparison in zip(logits, accuracies, comparisons, strict=True):
            accuracy.update(one, labels)
            comparison.update(one, logits[0])
        if on_logits is not None:
            on_logits(batch, logits)
    return accuracies, comparisons


def run_batch(runtime: Runtime, images: np.ndarray) -> np.ndarray:
    """Run a batch; the data's last one is filled up where the artifact takes no batch as small."""
    missing = 0 if runtime.batches is None else runtime.batches.smallest - len(images)
    if missing <= 0:
        return runtime.run(images)
    return runtime.run(np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]))[: len(images)]
