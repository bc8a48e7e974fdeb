"""One GEMM as a recipe would compute it, without quantizing the network: for rewrites that search."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..affine import scale_of
from ..calib import MagnitudeHistogram
from ..formats import Format
from ..rounding import nearest
from .modules import QuantLinear

__all__ = ["trial_product"]


def trial_product(
    formats: Mapping[str, Format],
    threshold: Callable[[MagnitudeHistogram, Format], float],
    clip: str,
) -> Callable[[str, Tensor, Tensor], Tensor]:
    """(site, rows [n, in], weight [out, in]) to rows · weightᵀ [n, out] in the site's format.

    Args:
        formats: of the quantized sites; others are computed in float.
        threshold: where a histogram of activations is clipped in a format.
        clip: how step sizes of weights are chosen.
    """

    @torch.no_grad()
    def product(site: str, rows: Tensor, weight: Tensor) -> Tensor:
        if site not in formats:
            return rows @ weight.T
        format_, step = formats[site], None
        if format_.is_static:
            assert format_.activations is not None
            histogram = MagnitudeHistogram()
            histogram.update(rows)
            step = scale_of(threshold(histogram, format_), format_.activations)
        gemm = QuantLinear(weight.shape, False, format_)
        rounded = nearest(weight, format_.weights, clip=clip, group=format_.group_for(weight.shape[1]))
        gemm.set_values(*rounded, None, step)
        return gemm(rows)

    return product
