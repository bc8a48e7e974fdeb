"""Labelled images from one spec string, streamed."""

from .categories import IMAGENET16, read_categories
from .cue_conflict import CueConflict
from .loader import Batch, Loader, sample_indices
from .source import Sample, Source
from .spec import SCHEMES, open_data

__all__ = [
    "IMAGENET16",
    "SCHEMES",
    "Batch",
    "CueConflict",
    "Loader",
    "Sample",
    "Source",
    "open_data",
    "read_categories",
    "sample_indices",
]
