"""What a rounding method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["RoundedWeight", "RoundingMethod"]


class RoundedWeight(NamedTuple):
    """integers int8 (or float8_e4m3fn) [out, ...], scale float32 [out] or [out, groups]."""

    integers: Tensor
    scale: Tensor


@dataclass(frozen=True)
class RoundingMethod:
    """A way from a float weight to integers and scales.

    Attributes:
        round: (weight [out, ...], number type, *, clip, group) to a `RoundedWeight`; with `needs_moments` it also
            takes `moments`, the `Moments` of the site's inputs in the network that is quantized up to there.
        needs_moments: weights are rounded site after site, each on what the quantized sites before it put out.
        needs_reference: those moments are taken against the float network, which runs beside.
    """

    round: Callable[..., RoundedWeight]
    needs_moments: bool = False
    needs_reference: bool = False
