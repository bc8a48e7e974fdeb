"""What a rewrite is, and what it may ask about a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..model.network import Network

__all__ = ["Observations", "Rewrite", "head_places", "observed_places", "row_places"]


def observed_places(model: Network) -> list[str]:
    """Names of the modules whose inputs a rewrite can look at: what reads a norm (of layers that share one, the first),
    and where an online rotation stands or could stand, so that what is seen there is not rotated yet."""
    return [*row_places(model), *head_places(model)]


def row_places(model: Network) -> list[str]:
    """Those of `observed_places` that see rows of channels."""
    structure = model.structure
    return [*(read.place for read in structure.reads), *(pair.place for pair in structure.pairs)]


def head_places(model: Network) -> list[str]:
    """Those of `observed_places` that see heads apart."""
    attentions = [block.attention for block in model.structure.blocks]
    return [name for parts in attentions for name in (parts.rotate_q, parts.rotate_k)]


class Observations(Protocol):
    """What calibration images show at a network's `observed_places`. Images are run when first asked for it."""

    def maxima(self, place: str) -> Tensor:
        """Largest magnitude of each channel, float32 [channels], or [H, D] where heads stand apart."""

    def rows(self, place: str) -> Tensor:
        """A fixed draw of the tokens that come by, float32 [rows, channels] (not where heads stand apart)."""

    def divided(self, place: str, scale: Tensor) -> None:
        """A rewrite has divided the channels there by scale [channels] (or [H, D]); what is known of them follows."""

    def product(self, site: str, rows: Tensor, weight: Tensor) -> Tensor:
        """rows · weightᵀ [rows, out] as the site's format would compute it, ranges taken from these rows and the weight
        rounded to the nearest; in float where the site is not quantized."""


def _always(model: Network) -> bool:
    return True


def _nothing(model: Network) -> None:
    return None


@dataclass(frozen=True)
class Rewrite:
    """An exact change of a network, in place.

    Attributes:
        fits: whether it is exact for a network; others are left as they are.
        needed: a network that it fits must have it before it is quantized or written down.
        fold: changes values so that, with `restructure`, the function stays the same.
        restructure: changes what the modules compute; touches no value and may run on empty weights.
        balance: like `fold`, for a rewrite that needs to know the activations.
        draw: like `fold`, for a rewrite with a random choice, which it takes from the generator alone. Observations
            made before it are not used after it.
    """

    name: str
    fits: Callable[[Network], bool] = _always
    needed: bool = False
    fold: Callable[[Network], None] = _nothing
    restructure: Callable[[Network], None] = _nothing
    balance: Callable[[Network, Observations], None] | None = None
    draw: Callable[[Network, torch.Generator], None] | None = None
