"""Intervals for paired measurements."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

__all__ = ["Interval", "drop_interval", "median_ratio", "paired_drop"]

RESAMPLES = 2000
#: Neighbouring rounds are not independent (the machine is slow or fast for a while), so whole stretches of
#: this many rounds are drawn.
BLOCK = 10


class Interval(NamedTuple):
    """An estimate; the truth lies above `low` with the stated confidence, and below `high` with the same."""

    value: float
    low: float
    high: float


def drop_interval(lost: int, won: int, images: int, confidence: float = 0.95) -> Interval:
    """Drop in top-1 on the same images, in points (percent), from the images that got lost and won.

    Bonett and Price's adjusted Wald interval for paired proportions: with b images that only the baseline
    gets right and c that only the candidate does, of n,

        p = (b + 1)/(n + 2), q = (c + 1)/(n + 2),   p - q ± z · sqrt((p + q - (p - q)²) / (n + 2))

    It does not collapse to zero width where the two never differ. Each bound is one-sided at `confidence`.
    Source: D. G. Bonett, R. M. Price, *Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data*, J. Educ. Behav. Stat. 37 (2012).
    """
    p, q = (lost + 1) / (images + 2), (won + 1) / (images + 2)
    margin = NormalDist().inv_cdf(confidence) * float(np.sqrt((p + q - (p - q) ** 2) / (images + 2)))
    return Interval(100 * (lost - won) / images, 100 * (p - q - margin), 100 * (p - q + margin))


def paired_drop(baseline_correct: np.ndarray, candidate_correct: np.ndarray, confidence: float = 0.95) -> Interval:
    """`drop_interval` from baseline to candidate, from whether each got each image right [images]."""
    lost = int(np.sum(baseline_correct & ~candidate_correct))
    won = int(np.sum(~baseline_correct & candidate_correct))
    return drop_interval(lost, won, len(baseline_correct), confidence)


def median_ratio(
    candidate_seconds: np.ndarray, baseline_seconds: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Median over rounds of candidate / baseline, with a block bootstrap interval.

    Args:
        candidate_seconds, baseline_seconds: [rounds], measured next to each other round by round.
    """
    ratios = np.asarray(candidate_seconds) / np.asarray(baseline_seconds)
    size = min(BLOCK, len(ratios))
    starts = np.arange(len(ratios) - size + 1)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(starts, (RESAMPLES, -(-len(ratios) // size)))
    samples = ratios[(drawn[..., None] + np.arange(size)).reshape(RESAMPLES, -1)]
    low, high = np.quantile(np.median(samples, axis=1), [1 - confidence, confidence])
    return Interval(float(np.median(ratios)), float(low), float(high))
