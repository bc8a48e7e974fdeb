"""timm's transforms of training images, as a recipe describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..preprocessing import Preprocessing
from .recipe import TrainRecipe

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["augmentation"]


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
