"""Ranges of activations, learned from images as they stream by."""

from .collect import collect_channel_maxima, collect_ranges, rebatch
from .finite import is_finite, require_finite
from .histogram import MagnitudeHistogram
from .methods import RANGE_METHODS, RangeMethod, range_method
from .moments import Moments, collect_moments
from .observe import Observed, collect_rows

__all__ = [
    "RANGE_METHODS",
    "MagnitudeHistogram",
    "Moments",
    "Observed",
    "RangeMethod",
    "collect_channel_maxima",
    "collect_moments",
    "collect_ranges",
    "collect_rows",
    "is_finite",
    "range_method",
    "rebatch",
    "require_finite",
]
