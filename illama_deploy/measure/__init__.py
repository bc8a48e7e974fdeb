"""Accuracy and latency of artefacts, with their uncertainty."""

from .accuracy import Accuracy, Comparison, measure_accuracy, pack_correct, unpack_correct
from .conditions import Conditions, condition_notes
from .latency import Latency, measure_latency
from .statistics import Interval, drop_interval, median_ratio, paired_drop, quotient

__all__ = [
    "Accuracy",
    "Comparison",
    "Conditions",
    "Interval",
    "Latency",
    "condition_notes",
    "drop_interval",
    "measure_accuracy",
    "measure_latency",
    "median_ratio",
    "pack_correct",
    "paired_drop",
    "quotient",
    "unpack_correct",
]
