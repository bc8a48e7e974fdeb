"""Clip by width: almost nothing where steps are small, to the least squared error where they are large.

At 8 bits the few largest values matter more to the logits than their number says, and clipping them costs more than
the smaller step gives back (docs/log.md); below, rounding dominates, and least squares is the usual choice.
"""

from __future__ import annotations

from collections.abc import Callable

from ...formats import IntType
from ..histogram import MagnitudeHistogram
from .mse import mse
from .percentile import percentile

__all__ = ["auto"]


def auto(argument: str = "") -> Callable[[MagnitudeHistogram, IntType], float]:
    """`percentile:99.999` from 8 bits on, `mse` below."""
    if argument:
        raise ValueError("auto takes no argument")
    wide, narrow = percentile(), mse()

    def threshold(histogram: MagnitudeHistogram, dtype: IntType) -> float:
        return (wide if dtype.bits >= 8 else narrow)(histogram, dtype)

    return threshold
