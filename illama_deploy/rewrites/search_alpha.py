"""Smoothing whose α is searched layer by layer instead of fixed (see `smooth`), or left out where nothing is better.

    least Σ ‖Q(x / s) Q(w · s)ᵀ - x wᵀ‖² / ‖x wᵀ‖²   over the Linear layers that read x

with the formats that the recipe gives these layers and their weights rounded to the nearest. What activations gain by
it, weights lose; which counts for more depends on the bits of both, and on the layer.

Source: Lin et al., *AWQ* (arXiv 2306.00978), Eq. 5: its grid search, here with SmoothQuant's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..model.network import Network
from .online_rotation import unrotated
from .parts import linear, norm_and_readers
from .rewrite import Observations, Rewrite
from .smooth import divide_hidden, divide_norm, smoothing_scale

__all__ = ["SEARCH_SMOOTH_NORMS", "SEARCH_SMOOTH_SWIGLU"]

ALPHAS = tuple(i / 10 for i in range(11))
#: Output channels of each layer that are tried. They are rounded one by one, so some of them stand for all.
CHANNELS = 256


def _search(
    observations: Observations,
    place: str,
    weights: Mapping[str, Tensor],
    rotate: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor | None:
    """The best scale, float64 [channels], or None where it is best to leave things as they are.

    Args:
        weights: of the sites that read the place, float64 [out, in], before `rotate`.
        rotate: what stands between the place and the sites.
    """
    rows = observations.rows(place)
    some = {site: weight[:: -(-len(weight) // CHANNELS)] for site, weight in weights.items()}
    # In float32, as a site that is not quantized computes it: its error is 0 where nothing is moved.
    exact = {site: rows @ weight.float().T for site, weight in some.items()}

    def error(scale: Tensor) -> float:
        x = rotate(rows.double() / scale).float()
        total = 0.0
        for site, weight in some.items():
            difference = observations.product(site, x, rotate(weight * scale).float()) - exact[site]
            total += float(difference.square().sum() / exact[site].square().sum().clamp(min=1e-30))
        return total

    best, least = None, error(torch.ones(rows.shape[1], dtype=torch.float64))
    for alpha in ALPHAS:
        scale = smoothing_scale(rows.abs().amax(0), *weights.values(), alpha=alpha)
        if (departure := error(scale)) < least:
            best, least = scale, departure
    return best


@torch.no_grad()
def _search_norms(model: Network, observations: Observations) -> None:
    for read in model.structure.reads:
        norm, readers = norm_and_readers(model, read)
        scale = _search(observations, read.place, {name: linear.weight.double() for name, linear in readers.items()})
        if scale is not None:
            divide_norm(norm, readers.values(), scale)
            observations.divided(read.place, scale)


@torch.no_grad()
def _search_swiglu(model: Network, observations: Observations) -> None:
    for pair in model.structure.pairs:
        rotate = model.get_submodule(pair.place)
        weights = {pair.second: unrotated(rotate, linear(model, pair.second).weight)}
        scale = _search(observations, pair.place, weights, rotate)
        if scale is not None:
            divide_hidden(model, pair, scale)
            observations.divided(pair.place, scale)


SEARCH_SMOOTH_NORMS = Rewrite("search_smooth_norms", balance=_search_norms)
SEARCH_SMOOTH_SWIGLU = Rewrite("search_smooth_swiglu", balance=_search_swiglu)
