"""timm's names of the networks that are read."""

from __future__ import annotations

import difflib
from functools import cache

from timm.models import list_models

__all__ = ["covered_modules", "covered_names", "find_architecture", "nearest_names"]

#: Modules of timm that make networks of the classes that are read.
MODULES = ("vision_transformer", "eva", "deit", "beit")


def covered_modules() -> tuple[str, ...]:
    """Modules of `timm.models` whose names are looked at."""
    return MODULES


@cache
def _names() -> frozenset[str]:
    return frozenset(name for module in MODULES for name in list_models(module=module))


def find_architecture(name: str) -> str | None:
    """timm's name, without a prefix `timm:` or `timm/` and without its tag (`.augreg_in1k`); None where it has none."""
    plain = name.removeprefix("timm:").removeprefix("timm/").partition(".")[0]
    return plain if plain in _names() else None


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Names that may be meant."""
    plain = name.removeprefix("timm:").removeprefix("timm/").partition(".")[0]
    return difflib.get_close_matches(plain[:80], sorted(_names()), count, 0.5)


def covered_names() -> tuple[str, ...]:
    """All names that are looked at, in order; some of them are of networks that are not covered."""
    return tuple(sorted(_names()))
