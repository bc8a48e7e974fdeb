"""Which augmentation policies timm knows."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

__all__ = ["why_no_policy"]

#: A section of a policy's name behind the first, such as `mstd0.5`; timm skips over others without a word.
SECTION = re.compile(r"[a-z]+[0-9][0-9.]{0,7}|t(weights|3aw?)")
#: Operations on an image, one after another, and chains of them that are mixed, at most.
OPERATIONS = 64


@cache
def why_no_policy(name: str) -> str:
    """Why timm knows no policy of that name, as `TrainRecipe.auto_augment`; empty where it does."""
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    first, *sections = name.split("-")
    for section in sections:
        if not SECTION.fullmatch(section):
            return f"{section[:40]!r} is no section of one"
    make = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}.get(first, auto_augment_transform)
    try:
        made: Any = make(name, {"translate_const": 1, "img_mean": (0, 0, 0)})
    except Exception as error:  # timm asserts, or looks up
        return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
    if getattr(made, "num_layers", 1) * getattr(made, "width", 1) * max(getattr(made, "depth", 1), 1) > OPERATIONS:
        return f"more than {OPERATIONS} operations on an image"
    return ""
