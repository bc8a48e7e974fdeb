"""Clip nothing that was seen."""

from __future__ import annotations

from collections.abc import Callable

from ...formats import IntType
from ..histogram import MagnitudeHistogram

__all__ = ["minmax"]


def minmax(argument: str = "") -> Callable[[MagnitudeHistogram, IntType], float]:
    """The largest magnitude seen."""
    if argument:
        raise ValueError("minmax takes no argument")

    def threshold(histogram: MagnitudeHistogram, dtype: IntType) -> float:
        return histogram.maximum

    return threshold
