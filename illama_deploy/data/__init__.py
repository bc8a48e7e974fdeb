"""Labelled images from one spec string, streamed."""

from .categories import IMAGENET16, read_categories
from .classes import compare_classes, require_classes
from .cue_conflict import CueConflict
from .decode import UndecodableError, decode
from .loader import Batch, Loader, sample_indices
from .scenes import Scene, Scenes
from .segmentation import IGNORE, labels_of
from .source import Sample, Source, resized, split_kind
from .spec import SCHEMES, data_paths, open_data, spec_from

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
    "UndecodableError",
    "compare_classes",
    "data_paths",
    "decode",
    "labels_of",
    "open_data",
    "read_categories",
    "require_classes",
    "resized",
    "sample_indices",
    "spec_from",
    "split_kind",
]
