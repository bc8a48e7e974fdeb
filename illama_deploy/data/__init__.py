"""Labelled images from one spec string, streamed."""

from .categories import IMAGENET16, read_categories
from .cue_conflict import CueConflict
from .loader import Batch, Loader, sample_indices
from .scenes import Scene, Scenes
from .segmentation import IGNORE, labels_of
from .source import Sample, Source
from .spec import SCHEMES, open_data

__all__ = [
    "IGNORE",
    "IMAGENET16",
    "SCHEMES",
    "Batch",
    "CueConflict",
    "Loader",
    "Sample",
    "Scene",
    "Scenes",
    "Source",
    "labels_of",
    "open_data",
    "read_categories",
    "sample_indices",
]
