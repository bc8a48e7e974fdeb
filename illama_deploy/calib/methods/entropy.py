"""Keep the distribution's information: least Kullback-Leibler divergence, as in TensorRT's calibrator.

Source: S. Migacz, *8-bit Inference with TensorRT*, GTC 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...formats import IntType
from ..histogram import MagnitudeHistogram

__all__ = ["entropy"]

STRIDE = 16  # bins between the thresholds tried


def entropy(argument: str = "") -> Callable[[MagnitudeHistogram, IntType], float]:
    """The threshold at which the quantized histogram diverges least from the clipped one."""
    if argument:
        raise ValueError("entropy takes no argument")

    def threshold(histogram: MagnitudeHistogram, dtype: IntType) -> float:
        counts = histogram.counts.numpy().astype(np.float64)
        # Exact zeros (masked attention, say) cost nothing at any scale; they must not dominate bin 0.
        counts[0] = min(counts[0], counts[1])
        last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
        levels = dtype.qmax + 1
        if last <= levels:
            return histogram.maximum
        ends = [*range(levels, last, STRIDE), last]
        best = min(ends, key=lambda end: _divergence(counts, end, levels))
        return min(best * histogram.width, histogram.maximum)

    return threshold


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(reference || quantized) for the first `end` bins, the clipped tail counted in the last of them."""
    kept = counts[:end]
    reference = kept.copy()
    reference[-1] += counts[end:].sum()
    # Spread each level's count evenly over those of its bins that hold anything.
    level = np.arange(end) * levels // end
    occupied = reference > 0
    total = np.bincount(level, kept, levels)
    bins = np.bincount(level, occupied, levels)
    quantized = np.where(occupied, (total / np.maximum(bins, 1))[level], 0.0)
    if not quantized.sum():
        return np.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    # A bin that only the clipped tail fills has no mass in q; a floor keeps the divergence finite and large.
    q = np.maximum(q, 1e-12)
    return float(np.sum(p[occupied] * np.log(p[occupied] / q[occupied])))
