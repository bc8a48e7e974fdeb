"""Segmentation: whole images by sliding windows, and figures from confusion matrices.

    IoU of a class = TP / (TP + FP + FN),   mIoU: its mean over the classes that labels or predictions show

Pixels without a label count nowhere. Overlapping windows are averaged as logits, scales and mirrored images as
probabilities; scores are resized to the image's own size before the best class is taken.
Source: mmsegmentation's whole-image evaluation (mode `slide`, `IoUMetric`), which the paper's figures are made with.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.scenes import Scene
from ..errors import UsageError, parameter
from ..model.upernet import resize
from ..quant.quality import sqnr_db
from ..runtime.runtime import Runtime
from .accuracy import run_batch
from .statistics import Interval, bootstrap

__all__ = [
    "PixelAccuracy",
    "PixelComparison",
    "Sliding",
    "measure_segmentation",
    "miou_drop",
    "pack_confusions",
    "predict",
    "unpack_confusions",
    "windows",
]

#: Of images, for the interval of a drop.
RESAMPLES = 2000
#: Preprocessed images float32 [B, C, h, w] to logits [B, K, h, w].
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sliding:
    """How whole images are predicted.

    Attributes:
        stride: pixels from window to window; two thirds of a window's side where None.
        scales: of the resized image.
        flip: mirrored images too.
    """

    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise UsageError(f"A stride of {self.stride} pixels leads nowhere.", hint=f"Raise {parameter('stride')}.")
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise UsageError(f"Scales {list(self.scales)} are not in 0.1 to 10.", hint=f"Mend {parameter('scales')}.")


def windows(length: int, window: int, stride: int | None) -> list[int]:
    """Where windows start along one axis: every `stride` pixels, the last one at the end.

    Raises:
        UsageError: pixels between windows would be left out.
    """
    step = stride or max(2 * window // 3, 1)
    if step > window:
        raise UsageError(
            f"A stride of {step} pixels leaves gaps between windows of {window}.", hint=f"Lower {parameter('stride')}."
        )
    return [min(start, length - window) for start in range(0, length - window + step, step)]


def predict(runs: Sequence[Run], scene: Scene, sliding: Sliding, batch_size: int) -> list[Tensor]:
    """Scores [K, H, W] of one image by each of the artifacts: logits, or the mean of probabilities over views."""
    views = [(scale, flip) for scale in sliding.scales for flip in ((False, True) if sliding.flip else (False,))]
    totals: list[Tensor] = []
    for scale, flip in views:
        x_CHW, (height, width) = scene.view(scale, flip=flip)
        for i, run in enumerate(runs):
            logits = _slide(run, x_CHW, scene.preprocessing.size, sliding.stride, batch_size)[..., :height, :width]
            scores = resize((logits.flip(-1) if flip else logits)[None], scene.labels.shape)[0]
            if len(views) > 1:
                scores = scores.softmax(0) / len(views)
            if i == len(totals):
                totals.append(scores)
            else:
                totals[i] = totals[i] + scores
    return totals


def _slide(run: Run, x_CHW: Tensor, size: tuple[int, int], stride: int | None, batch_size: int) -> Tensor:
    """Logits [K, H, W], the mean of all windows over each pixel."""
    places = [(top, left) for top in windows(x_CHW.shape[1], size[0], stride)
              for left in windows(x_CHW.shape[2], size[1], stride)]  # fmt: skip
    areas = [(slice(None), slice(top, top + size[0]), slice(left, left + size[1])) for top, left in places]
    total: Tensor | None = None
    count = torch.zeros(1, *x_CHW.shape[1:])
    for first in range(0, len(areas), batch_size):
        some = areas[first : first + batch_size]
        logits_BKHW = torch.from_numpy(run(np.stack([x_CHW[area].numpy() for area in some])))
        if total is None:
            total = torch.zeros(logits_BKHW.shape[1], *x_CHW.shape[1:])
        for area, logits in zip(some, logits_BKHW, strict=True):
            total[area] += logits
            count[area] += 1
    assert total is not None
    return total / count


@dataclass
class PixelAccuracy:
    """Figures of one artifact.

    Attributes:
        classes: K.
        confusions: for each image, pixels by label and prediction, int64 [K, K + 1]; the last column counts pixels
            whose scores are not finite.
    """

    classes: int
    confusions: list[np.ndarray] = field(default_factory=list)

    def update(self, scores: Tensor, labels: np.ndarray) -> None:
        """Add an image: scores [K, H, W], labels [H, W]; what is no class is left out."""
        K = self.classes
        guesses = torch.where(torch.isfinite(scores).all(0), scores.argmax(0), K).numpy()
        known = (labels >= 0) & (labels < K)
        counts = np.bincount(labels[known] * (K + 1) + guesses[known], minlength=K * (K + 1))
        self.confusions.append(counts.reshape(K, K + 1).astype(np.int64))

    @property
    def images(self) -> int:
        """Images counted."""
        return len(self.confusions)

    @property
    def total(self) -> np.ndarray:
        """Pixels by label and prediction over all images, int64 [K, K + 1]."""
        return np.sum([np.zeros((self.classes, self.classes + 1), np.int64), *self.confusions], axis=0)

    @property
    def chance(self) -> float:
        """What mIoU would be, in percent, were the same guesses dealt out among the pixels: that much is luck."""
        total = self.total.astype(np.float64)
        return _mean(class_iou(np.outer(total.sum(1), total.sum(0)) / max(total.sum(), 1)))

    def to_dict(self) -> dict[str, Any]:
        """`miou`, `pixel_accuracy`, `mean_accuracy` and for each class `iou` in percent (None of a class that neither
        labels nor predictions show), `images`; `not_finite` pixels where there are such."""
        total = self.total
        not_finite = int(total[:, -1].sum())
        return {
            **{name: function(total) for name, function in FIGURES.items()},
            "images": self.images,
            "iou": [None if np.isnan(iou) else float(iou) for iou in class_iou(total)],
        } | ({"not_finite": not_finite} if not_finite else {})

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """`miou`, `pixel_accuracy` and `mean_accuracy` with their intervals over other images like these."""
        stacked = np.stack(self.confusions)
        return {
            name: bootstrap(partial(_figure_at, function, stacked), self.images, confidence).within(0, 100)
            for name, function in FIGURES.items()
        }


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Of each class in percent, from a matrix [K, K + 1]; NaN where neither labels nor predictions show it."""
    right = np.diagonal(confusion)
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - right
    return 100 * right / np.where(union, union, np.nan)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0


def _pixel_accuracy(confusion: np.ndarray) -> float:
    return 100 * float(np.trace(confusion)) / max(int(confusion.sum()), 1)


def _mean_accuracy(confusion: np.ndarray) -> float:
    pixels = confusion.sum(1)
    return _mean(100 * np.diagonal(confusion) / np.where(pixels, pixels, np.nan))


FIGURES: dict[str, Callable[[np.ndarray], float]] = {
    "miou": lambda confusion: _mean(class_iou(confusion)),
    "pixel_accuracy": _pixel_accuracy,
    "mean_accuracy": _mean_accuracy,
}


def _figure_at(function: Callable[[np.ndarray], float], confusions: np.ndarray, at: np.ndarray) -> float:
    return function(confusions[at].sum(0))


def miou_drop(baseline: Sequence[np.ndarray], candidate: Sequence[np.ndarray], confidence: float = 0.95) -> Interval:
    """Drop in mIoU on the same images, in points, from both artifacts' matrices image by image [K, K + 1].

    mIoU is no mean over images, so there is no closed form: the interval is a paired bootstrap over images, whose
    matrices of both artifacts are drawn together.
    """
    shape, images = baseline[0].shape, len(baseline)
    # As float64, which holds such counts exactly and is summed by a GEMM.
    pair = [np.stack(confusions).reshape(images, -1).astype(np.float64) for confusions in (baseline, candidate)]

    def drop(at: np.ndarray) -> float:
        times = np.bincount(at, minlength=images).astype(np.float64)
        before, after = (FIGURES["miou"]((times @ confusions).reshape(shape)) for confusions in pair)
        return before - after

    return bootstrap(drop, images, confidence, resamples=RESAMPLES)


def pack_confusions(confusions: Sequence[np.ndarray]) -> str:
    """Matrices as text: what a later report needs for a paired interval."""
    return base64.b64encode(zlib.compress(np.stack(confusions).astype("<i4").tobytes())).decode()


def unpack_confusions(text: str, classes: int, images: int) -> list[np.ndarray]:
    """The inverse of `pack_confusions`.

    Raises:
        ValueError: it holds something else than so many matrices; no more than these are unpacked.
    """
    size = 4 * images * classes * (classes + 1)
    try:
        held = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(held) != size:
        raise ValueError(f"{len(held)} bytes where {images} matrices have {size}")
    values = np.frombuffer(held, "<i4").astype(np.int64).reshape(images, classes, classes + 1)
    if values.min(initial=0) < 0:
        raise ValueError("counts of pixels below zero")
    return list(values)


@dataclass
class PixelComparison:
    """An artifact's scores against the reference's, image by image; what is not finite disagrees."""

    _same: list[int] = field(default_factory=list)
    _pixels: list[int] = field(default_factory=list)
    _signal: list[float] = field(default_factory=list)
    _noise: list[float] = field(default_factory=list)

    def update(self, scores: Tensor, reference: Tensor) -> None:
        """Add both scores [K, H, W] of an image."""
        finite, known = torch.isfinite(scores).all(0), torch.isfinite(reference).all(0)
        same = (scores.argmax(0) == reference.argmax(0)) & finite & known
        signal = torch.where(known, reference, 0.0).double().square()
        # In float64, where no difference of two float32 overflows.
        wrong = scores.double() - reference.double()
        noise = torch.where(finite & known, wrong, torch.where(known, reference, 0.0).double()).square()
        self._same.append(int(same.sum()))
        self._pixels.append(same.numel())
        self._signal.append(float(signal.sum()))
        self._noise.append(float(noise.sum()))

    def to_dict(self) -> dict[str, Any]:
        """`agreement`, the share of pixels of one class in percent, and `logit_sqnr_db` (None where no score of the
        reference is a number)."""
        found = self._figures(0.95, resamples=1)
        return {"logit_sqnr_db": None} | {name: interval.value for name, interval in found.items()}

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """Both figures, as far as they are known, with their intervals over other images like these."""
        return self._figures(confidence)

    def _figures(self, confidence: float, resamples: int = 500) -> dict[str, Interval]:
        same, pixels, signal, noise = map(np.array, (self._same, self._pixels, self._signal, self._noise))
        figures: dict[str, Callable[[np.ndarray], float]] = {
            "agreement": lambda at: 100 * float(same[at].sum()) / float(pixels[at].sum()),
            "logit_sqnr_db": lambda at: sqnr_db(float(signal[at].sum()), float(noise[at].sum())),
        }
        found = {n: bootstrap(f, len(same), confidence, resamples=resamples) for n, f in figures.items()}
        if not signal.any():
            del found["logit_sqnr_db"]
        return found | {"agreement": found["agreement"].within(0, 100)}


def measure_segmentation(
    runtimes: Sequence[Runtime],
    scenes: Iterable[Scene],
    sliding: Sliding,
    batch_size: int,
    on_scores: Callable[[Scene, list[Tensor]], None] | None = None,
) -> tuple[list[PixelAccuracy], list[PixelComparison]]:
    """Show every image to all artifacts.

    Args:
        batch_size: windows at a time.
        on_scores: called for each image with all artifacts' scores [K, H, W].

    Returns:
        Figures of each artifact, and of each against the first.
    """
    accuracies = [PixelAccuracy(runtime.classes) for runtime in runtimes]
    comparisons = [PixelComparison() for _ in runtimes]
    runs = [partial(run_batch, runtime) for runtime in runtimes]
    for scene in scenes:
        scores = predict(runs, scene, sliding, batch_size)
        for one, accuracy, comparison in zip(scores, accuracies, comparisons, strict=True):
            accuracy.update(one, scene.labels)
            comparison.update(one, scores[0])
        if on_scores is not None:
            on_scores(scene, scores)
    return accuracies, comparisons
