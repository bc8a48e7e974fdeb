"""Balance clipping against rounding: least mean squared error over what was seen."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...formats import IntType
from ..histogram import MagnitudeHistogram

__all__ = ["mse"]

CANDIDATES = 160
SMALLEST = 0.01  # of the largest magnitude; below this, clipping always costs more


def mse(argument: str = "") -> Callable[[MagnitudeHistogram, IntType], float]:
    """The threshold, of 160 spaced evenly in logarithm, whose quantization error over the histogram is least."""
    if argument:
        raise ValueError("mse takes no argument")

    def threshold(histogram: MagnitudeHistogram, dtype: IntType) -> float:
        ratios = torch.logspace(0, torch.log10(torch.tensor(SMALLEST)).item(), CANDIDATES, dtype=torch.float64)
        steps = (histogram.maximum * ratios / dtype.qmax)[:, None]
        used = histogram.counts > 0
        centers, counts = histogram.centers[used], histogram.counts[used].double()
        error = (torch.round(centers / steps).clamp(max=dtype.qmax) * steps - centers).square() @ counts
        return float(histogram.maximum * ratios[error.argmin()])

    return threshold
