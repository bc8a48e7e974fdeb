"""Range methods: from a histogram of magnitudes to the clipping threshold. One file each."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import RecipeError
from ...formats import IntType
from ..histogram import MagnitudeHistogram
from .auto import auto
from .entropy import entropy
from .minmax import minmax
from .mse import mse
from .percentile import percentile

__all__ = ["RANGE_METHODS", "RangeMethod", "range_method"]

RangeMethod = Callable[[MagnitudeHistogram, IntType], float]

#: Name to a function that takes the argument after the colon ("" where there is none) and returns the method.
RANGE_METHODS: dict[str, Callable[[str], RangeMethod]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
    "auto": auto,
}


def range_method(spec: str) -> RangeMethod:
    """Look up `NAME` or `NAME:ARGUMENT`, such as `mse` or `percentile:99.9`.

    Raises:
        RecipeError: no such method, or an argument that it does not take.
    """
    name, _, argument = spec.partition(":")
    if name not in RANGE_METHODS:
        raise RecipeError(f"There is no range method {name!r}.", hint=f"Use one of: {', '.join(RANGE_METHODS)}.")
    try:
        return RANGE_METHODS[name](argument)
    except ValueError as error:
        raise RecipeError(
            f"Range method {spec!r} cannot be used: {error}.",
            hint=f"Methods: {', '.join(RANGE_METHODS)}; only percentile takes an argument, as in percentile:99.9.",
        ) from error
