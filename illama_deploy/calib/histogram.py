"""One histogram of magnitudes that no order or batching of the data can change."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MagnitudeHistogram"]

#: Widths stay normal float32 numbers, and so do their reciprocals.
SMALLEST_EXPONENT = -126


class MagnitudeHistogram:
    """Counts of |x| in equal bins from 0, in constant memory and one pass.

    The bin width is a power of two, so the bin number |x| / width is exact, and when a larger value comes,
    adjacent bins are merged until it fits, which is exact too: floor(floor(x / w) / 2) = floor(x / 2w). The
    final width depends only on the largest value seen. Hence the same data gives the same counts in any
    order and any batch size. Between BINS / 2 and BINS bins are in use, at least 16 for each step of an
    8-bit range (fewer only for data below 1e-34, which no network has).
    """

    BINS = 4096

    def __init__(self) -> None:
        self.counts = torch.zeros(self.BINS, dtype=torch.int64)
        self.maximum = 0.0
        self.exponent: int | None = None  # width = 2 ** exponent

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0 ** (self.exponent if self.exponent is not None else 0)

    @property
    def centers(self) -> Tensor:
        """Middle of each bin, float64 [BINS]."""
        return (torch.arange(self.BINS, dtype=torch.float64) + 0.5) * self.width

    def update(self, x: Tensor) -> None:
        """Count the magnitudes of all elements of `x`, which must be finite."""
        magnitudes = x.detach().abs().float().flatten()
        peak = float(magnitudes.max()) if magnitudes.numel() else 0.0
        if peak == 0.0:
            self.counts[0] += magnitudes.numel()
            return
        self.maximum = max(self.maximum, peak)
        # Smallest e with peak < BINS * 2^e. frexp: peak = m * 2^k, 0.5 <= m < 1.
        needed = max(math.frexp(peak)[1] - int(math.log2(self.BINS)), SMALLEST_EXPONENT)
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            self.counts = torch.cat((self.counts.view(-1, 2).sum(1), self.counts.new_zeros(self.BINS // 2)))
            self.exponent += 1
        bins = (magnitudes * 2.0**-self.exponent).to(torch.int32)
        self.counts += torch.bincount(bins, minlength=self.BINS)
