"""What rewrites may ask about a network, answered from calibration images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..model.network import Network
from ..rewrites import observed_places, row_places
from .collect import collect_channel_maxima, run_observed

__all__ = ["Observed", "collect_rows"]

#: Tokens drawn at each place: enough to compare scales by, and 1 GB for geometry L.
ROWS = 2048


def collect_rows(
    model: Network, names: Sequence[str], batches: Iterable[Tensor], count: int = ROWS
) -> dict[str, Tensor]:
    """Draw rows of what modules see, all alike likely: module name to float32 [count or fewer, in].

    The draw follows from the module's name and the order of images alone.
    """
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    generators = {name: torch.Generator().manual_seed(zlib.crc32(name.encode())) for name in names}

    def observer(name: str) -> Callable[[tuple[Tensor, ...]], None]:
        def observe(inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2)
            # Every row gets a random number; those with the smallest stay.
            keys = torch.rand(len(rows), generator=generators[name], dtype=torch.float64)
            if name in kept:
                keys, rows = torch.cat((kept[name][0], keys)), torch.cat((kept[name][1], rows))
            chosen = keys.topk(min(count, len(keys)), largest=False).indices
            kept[name] = keys[chosen], rows[chosen]

        return observe

    run_observed(model, {name: observer(name) for name in names}, batches)
    return {name: rows for name, (_, rows) in kept.items()}


def float_product(site: str, rows: Tensor, weight: Tensor) -> Tensor:
    """rows · weightᵀ."""
    return rows @ weight.T


class Observed:
    """Observations (see `rewrites`) of one network as it is when they are first asked for.

    Args:
        images: gives the calibration images [B, C, H, W], any batch sizes, each time it is called.
        product: how the recipe would compute a site's GEMM; needed by rewrites that search.
    """

    def __init__(
        self,
        model: Network,
        images: Callable[[], Iterable[Tensor]],
        product: Callable[[str, Tensor, Tensor], Tensor] = float_product,
    ) -> None:
        self.model, self.images, self.product = model, images, product
        self._maxima: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def maxima(self, place: str) -> Tensor:
        """Largest magnitude of each channel, float32 [channels] or [H, D]."""
        if not self._maxima:
            self._maxima = collect_channel_maxima(self.model, observed_places(self.model), self.images())
        return self._maxima[place]

    def rows(self, place: str) -> Tensor:
        """A fixed draw of the tokens that come by, float32 [rows, channels]."""
        if not self._rows:
            self._rows = collect_rows(self.model, row_places(self.model), self.images())
        return self._rows[place]

    def divided(self, place: str, scale: Tensor) -> None:
        """A rewrite has divided the channels by scale."""
        for known in (self._maxima, self._rows):
            if place in known:
                known[place] = (known[place] / scale).float()
