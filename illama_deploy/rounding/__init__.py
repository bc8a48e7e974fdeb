"""Rounding methods: from a float weight to integers and scales. One file each."""

from __future__ import annotations

from ..errors import RecipeError
from .gptq import GPTAQ, GPTQ, gptq
from .method import RoundedWeight, RoundingMethod
from .nearest import NEAREST, nearest, weight_clip

__all__ = ["ROUNDING_METHODS", "RoundedWeight", "RoundingMethod", "gptq", "nearest", "rounding_method", "weight_clip"]

ROUNDING_METHODS: dict[str, RoundingMethod] = {"nearest": NEAREST, "gptq": GPTQ, "gptaq": GPTAQ}


def rounding_method(name: str) -> RoundingMethod:
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
