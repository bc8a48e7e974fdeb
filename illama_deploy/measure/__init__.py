"""Accuracy and latency of artefacts, with their uncertainty."""

from .accuracy import Accuracy, Comparison, measure_accuracy
from .latency import Latency, measure_latency
from .statistics import Interval, drop_interval, median_ratio, paired_drop

__all__ = [
    "Accuracy",
    "Comparison",
    "Interval",
    "Latency",
    "drop_interval",
    "measure_accuracy",
    "measure_latency",
    "median_ratio",
    "paired_drop",
]
