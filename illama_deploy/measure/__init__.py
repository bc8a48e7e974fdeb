"""Accuracy and latency of artifacts, with their uncertainty."""

from .accuracy import Accuracy, Comparison, measure_accuracy, pack_correct, run_batch, unpack_correct
from .conditions import Conditions, condition_notes
from .features import FeatureAccuracy, FeatureComparison, measure_features, require_comparable
from .latency import Latency, measure_latency
from .reliability import PAPER_BINNING, Binning, fit_temperature
from .segmentation import (
    PixelAccuracy,
    PixelComparison,
    Sliding,
    measure_segmentation,
    miou_drop,
    pack_confusions,
    unpack_confusions,
)
from .statistics import Interval, drop_interval, median_ratio, paired_drop, quotient

__all__ = [
    "PAPER_BINNING",
    "Accuracy",
    "Binning",
    "Comparison",
    "Conditions",
    "FeatureAccuracy",
    "FeatureComparison",
    "Interval",
    "Latency",
    "PixelAccuracy",
    "PixelComparison",
    "Sliding",
    "condition_notes",
    "drop_interval",
    "fit_temperature",
    "measure_accuracy",
    "measure_features",
    "measure_latency",
    "measure_segmentation",
    "median_ratio",
    "miou_drop",
    "pack_confusions",
    "pack_correct",
    "paired_drop",
    "quotient",
    "require_comparable",
    "run_batch",
    "unpack_confusions",
    "unpack_correct",
]
