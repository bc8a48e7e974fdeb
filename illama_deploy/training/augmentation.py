"""timm's transforms of training images, as a recipe describes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

    from .recipe import TrainRecipe

__all__ = ["augmentation", "why_no_policy"]

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


def _operations(part: Any) -> Iterator[Any]:
    """Every `AugmentOp` in a transform of timm's, however its policies nest them."""
    from timm.data.auto_augment import AugmentOp

    if isinstance(part, AugmentOp):
        yield part
    inner = part if isinstance(part, list | tuple) else [
        getattr(part, name) for name in ("transforms", "ops", "policy") if hasattr(part, name)
    ]  # fmt: skip
    for each in inner:
        yield from _operations(each)


def _posterize(image: Image, bits_to_keep: int, **_: Any) -> Image:
    """timm's posterize, which may keep no bit at all: black, as Pillow made it until it refused (13)."""
    from timm.data.auto_augment import posterize

    return posterize(image, bits_to_keep) if bits_to_keep > 0 else image.point(lambda value: 0)


def augmentation(recipe: TrainRecipe, preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """timm's transform of a decoded image, as the recipe describes it."""
    from timm.data import create_transform
    from timm.data.auto_augment import posterize

    transform: Callable[[Image], Tensor] = create_transform(
        (preprocessing.channels, *preprocessing.size),
        is_training=True,
        scale=recipe.crop_scale,
        hflip=recipe.flip,
        color_jitter=recipe.color_jitter or None,
        auto_augment=recipe.auto_augment or None,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        re_prob=recipe.erasing,
        re_mode="pixel",
    )
    for operation in _operations(transform):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return transform
