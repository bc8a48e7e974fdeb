"""Intervals. Each bound is one-sided: the truth lies above `low` with the stated confidence, and below `high`."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

__all__ = [
    "Interval",
    "bootstrap",
    "drop_interval",
    "mean_interval",
    "median_ratio",
    "paired_drop",
    "quotient",
    "share_interval",
]

RESAMPLES = 2000
#: Neighbouring rounds are not independent (the machine is slow or fast for a while), so whole stretches of
#: this many rounds are drawn; of few rounds shorter ones, so that there are several to draw.
BLOCK, FEWEST_BLOCKS = 10, 5


class Interval(NamedTuple):
    """An estimate; the truth lies above `low` with the stated confidence, and below `high` with the same."""

    value: float
    low: float
    high: float

    def within(self, least: float, most: float = math.inf) -> Interval:
        """The same with no bound outside of where the estimated value can lie."""
        return Interval(self.value, *(min(max(bound, least), most) for bound in (self.low, self.high)))


def drop_interval(lost: int, won: int, images: int, confidence: float = 0.95) -> Interval:
    """Drop in top-1 on the same images, in points (percent), from the images that got lost and won.

    With b images that only the baseline gets right and c that only the candidate does, of n, the upper bound is the
    drop D at which Tango's score

        (b + 1/2 - c - n·D) / sqrt(n·(2·q + D·(1 - D))),    q: most likely share of c, given D

    is -z. The half image is a continuity correction. With it, a candidate whose true drop is the limit passes in at
    most 1 - confidence of all cases, whatever n (10 to 50,000) and however often the two disagree (seen by adding up
    all outcomes; without it, and with Bonett and Price's interval, it passes too often where they rarely disagree).
    Source: T. Tango, *Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design*, Statistics in Medicine 17 (1998).
    """
    z = NormalDist().inv_cdf(confidence)
    low, high = -_largest_drop(won, lost, images, z), _largest_drop(lost, won, images, z)
    return Interval(100 * (lost - won) / images, 100 * low, 100 * high)


def paired_drop(baseline_correct: np.ndarray, candidate_correct: np.ndarray, confidence: float = 0.95) -> Interval:
    """`drop_interval` from baseline to candidate, from whether each got each image right [images]."""
    lost = int(np.sum(baseline_correct & ~candidate_correct))
    won = int(np.sum(~baseline_correct & candidate_correct))
    return drop_interval(lost, won, len(baseline_correct), confidence)


def _largest_drop(lost: int, won: int, n: int, z: float) -> float:
    """The largest drop (a share) that such counts do not rule out."""

    def score(drop: float) -> float:
        b = lost + 0.5
        linear = -b - won + (2 * n - b + won) * drop
        q = (math.sqrt(max(linear * linear + 8 * n * won * drop * (1 - drop), 0.0)) - linear) / (4 * n)
        return (b - won - n * drop) / math.sqrt(max(n * (2 * q + drop * (1 - drop)), 1e-300))

    low, high = max((lost - won) / n, -1 + 1e-9), 1.0
    for _ in range(60):  # the score falls as the drop rises
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > -z else (low, middle)
    return high


def share_interval(count: int, total: int, confidence: float = 0.95) -> Interval:
    """A share in percent, with Wilson's score interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    if total == 0:
        return Interval(0.0, 0.0, 100.0)
    z, p = NormalDist().inv_cdf(confidence), count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    margin = z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2) / (1 + z * z / total)
    return Interval(100 * p, 100 * max(min(middle - margin, p), 0.0), 100 * min(max(middle + margin, p), 1.0))


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """A mean over images with its normal interval."""
    mean = float(values.mean())
    margin = NormalDist().inv_cdf(confidence) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - margin, mean + margin)


def bootstrap(
    statistic: Callable[[np.ndarray], float], images: int, confidence: float = 0.95, seed: int = 0, resamples: int = 500
) -> Interval:
    """A statistic of a sample of images, with a bootstrap interval that is free of the bootstrap's own bias.

    Args:
        statistic: of the images at these positions [images], drawn with replacement.
    """
    rng = np.random.default_rng(seed)
    value = statistic(np.arange(images))
    drawn = np.array([statistic(rng.integers(0, images, images)) for _ in range(resamples)])
    # Binned calibration errors grow with noise, so every resample's is larger than the sample's own.
    low, high = np.quantile(drawn, [1 - confidence, confidence]) - (drawn.mean() - value)
    return Interval(value, float(low), float(high))


def median_ratio(
    candidate_seconds: np.ndarray, baseline_seconds: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Median over rounds of candidate / baseline, with a block bootstrap interval.

    The bootstrap knows no more than so many stretches tell; where these are few, its bounds are moved out as Student's
    distribution says for as many values.

    Args:
        candidate_seconds, baseline_seconds: [rounds], measured next to each other round by round.
    """
    ratios = np.asarray(candidate_seconds) / np.asarray(baseline_seconds)
    size = max(min(BLOCK, len(ratios) // FEWEST_BLOCKS), 1)
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(ratios), (RESAMPLES, -(-len(ratios) // size)))
    # Stretches go on at the start where they reach the end, so that no round is drawn less often than others.
    samples = ratios[(starts[..., None] + np.arange(size)).reshape(RESAMPLES, -1) % len(ratios)]
    low, high = np.quantile(np.median(samples, axis=1), [1 - confidence, confidence])
    value, wider = float(np.median(ratios)), _student_factor(len(ratios) // size, confidence)
    # As factors, so that however far they move, no bound becomes negative.
    return Interval(value, value * (float(low) / value) ** wider, value * (float(high) / value) ** wider)


def _student_factor(values: int, confidence: float) -> float:
    """How much wider an interval of the mean of so many values is than their spread and the normal law say.

    Source of the expansion: Abramowitz and Stegun, 26.7.5.
    """
    z, v = NormalDist().inv_cdf(confidence), max(values - 1, 1)
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)
    return math.sqrt(values / v) * (t / z if z else 1.0)


def quotient(above: Interval, below: Interval) -> Interval:
    """above / below of two independent positive estimates, from their intervals.

    Distances of the bounds, as logarithms, add as squares. Source: G. Y. Zou, A. Donner, *Construction of confidence
    limits about effect measures: a general approach*, Statistics in Medicine 27 (2008).
    """
    (x, x_low, x_high), (y, y_low, y_high) = (tuple(map(math.log, interval)) for interval in (above, below))
    low, high = math.hypot(x - x_low, y_high - y), math.hypot(x_high - x, y - y_low)
    return Interval(math.exp(x - y), math.exp(x - y - low), math.exp(x - y + high))
