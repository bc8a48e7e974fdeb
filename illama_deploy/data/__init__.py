"""Labelled images from one spec string, streamed."""

from .loader import Batch, Loader, sample_indices
from .source import Sample, Source
from .spec import SCHEMES, open_data

__all__ = ["SCHEMES", "Batch", "Loader", "Sample", "Source", "open_data", "sample_indices"]
