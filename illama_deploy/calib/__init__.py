"""Ranges of activations, learned from images as they stream by."""

from .collect import collect_channel_maxima, collect_ranges, rebatch
from .histogram import MagnitudeHistogram
from .methods import RANGE_METHODS, RangeMethod, range_method

__all__ = [
    "RANGE_METHODS",
    "MagnitudeHistogram",
    "RangeMethod",
    "collect_channel_maxima",
    "collect_ranges",
    "range_method",
    "rebatch",
]
