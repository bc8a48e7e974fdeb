"""Rounding methods: from a float weight to integers and scales. One file each."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import RecipeError
from .nearest import RoundedWeight, nearest, weight_clip

__all__ = ["ROUNDING_METHODS", "RoundedWeight", "rounding_method", "weight_clip"]

ROUNDING_METHODS: dict[str, Callable[..., RoundedWeight]] = {"nearest": nearest}


def rounding_method(name: str) -> Callable[..., RoundedWeight]:
    """Look a method up by name.

    Raises:
        RecipeError: no such method.
    """
    try:
        return ROUNDING_METHODS[name]
    except KeyError:
        raise RecipeError(
            f"There is no rounding method {name!r}.", hint=f"Use one of: {', '.join(ROUNDING_METHODS)}."
        ) from None
