"""Whether confidence can be taken at its word: calibration errors, and the temperature that mends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, UsageError, parameter

__all__ = ["PAPER_BINNING", "SCHEMES", "Binning", "calibration_error", "fit_temperature", "log_softmax"]

SCHEMES = ("equal-width", "equal-mass")
#: Temperatures that are looked for; no network in use needs one near either end.
COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Binning:
    """How confidences are put into bins; 15 of equal width, as in the paper.

    Attributes:
        scheme: `equal-width`, or `equal-mass` for bins that hold equally many images: their edges are quantiles of the
            confidences, so equal confidences share a bin.
    """

    bins: int = 15
    scheme: str = SCHEMES[0]

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UsageError("Calibration needs at least one bin.", hint=f"Raise {parameter('bins')}.")
        if self.scheme not in SCHEMES:
            raise UsageError(
                f"There is no binning {self.scheme!r}.", hint=f"Use {parameter('binning')} {' or '.join(SCHEMES)}."
            )

    def edges(self, confidence: np.ndarray) -> np.ndarray:
        """Edges of the bins, ascending [bins + 1]."""
        steps = np.linspace(0, 1, self.bins + 1)
        return np.quantile(confidence, steps) if self.scheme == "equal-mass" and len(confidence) else steps

    def reliability(self, correct: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """Images, right answers and summed confidence of each bin [3, bins]; a bin holds its lower edge.

        Args:
            correct, confidence: of the first guess, image by image [images].
        """
        at = np.searchsorted(self.edges(confidence)[1:-1], confidence, side="right")
        return np.stack([np.bincount(at, weight, self.bins) for weight in (np.ones(len(at)), correct, confidence)])


PAPER_BINNING = Binning()


def calibration_error(reliability: np.ndarray) -> float:
    """Expected calibration error, from `Binning.reliability`: mean of |accuracy - confidence| over images."""
    count, correct, confidence = reliability
    return float(np.abs(correct - confidence).sum() / max(count.sum(), 1))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, float64 [images, classes]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T at which logits / T have the least negative log-likelihood.

    The likelihood is concave in 1/T, so its slope has one root. Source: C. Guo et al., *On Calibration of Modern Neural
    Networks*, ICML 2017.

    Args:
        logits: [images, classes], finite; labels: [images].

    Raises:
        DataError: there is no best temperature: nearly every answer is right (a colder one is always better), or
            answers are no better than guessing (a hotter one is).
    """
    from scipy.optimize import brentq

    logits = logits.astype(np.float64)
    own = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        return float(((np.exp(log_softmax(inverse * logits)) * logits).sum(1) - own).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(high) <= 0 or slope(low) >= 0:
        why = "nearly every answer is right" if slope(high) <= 0 else "answers are no better than guessing"
        raise DataError(
            f"No temperature is the best on these {len(labels)} images: {why}.",
            hint=f"Fit it on more images, which the network was not trained on ({parameter('calib_split')}, "
            f"{parameter('calib_images')}).",
        )
    root: Callable[..., float] = brentq
    return 1 / root(slope, low, high, xtol=1e-12)
