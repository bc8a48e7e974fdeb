"""Clip a fixed share of the values."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...formats import IntType
from ..histogram import MagnitudeHistogram

__all__ = ["percentile"]

DEFAULT = 99.999


def percentile(argument: str = "") -> Callable[[MagnitudeHistogram, IntType], float]:
    """The upper edge of the bin below which `argument` percent (99.999 by default) of the magnitudes lie."""
    percent = float(argument or DEFAULT)
    if not 0 < percent <= 100:
        raise ValueError("the percentile must be in (0, 100]")

    def threshold(histogram: MagnitudeHistogram, dtype: IntType) -> float:
        cumulative = histogram.counts.cumsum(0)
        # In integers, so that 100 % is the last occupied bin and not one past it.
        needed = int(-(-int(cumulative[-1]) * percent // 100))
        bin_ = int(torch.searchsorted(cumulative, needed))
        return min((bin_ + 1) * histogram.width, histogram.maximum)

    return threshold
