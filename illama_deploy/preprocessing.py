"""How an image file becomes the network's input: one frozen value, one path for every backend."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from .errors import UsageError, parameter
from .tables import typed

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing", "default_preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
CROP_MODES = ("center", "squash", "border")
LARGEST_SIDE, MOST_CHANNELS, SMALLEST_CROP = 16_384, 1_024, 0.05


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `size / crop`, crop to `size`, scale to 0..1, subtract `mean`, divide by `std`.

    Attributes:
        size: (height, width) of the network's input in pixels.
        mean, std: one figure per channel, of pixels in 0..1.
        crop: share of the resized image's side that the crop keeps; 1 keeps all.
        crop_mode: timm's `center`, `squash` (ignore the aspect ratio) or `border` (pad).
        interpolation: of the resize.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 1.0
    crop_mode: str = "center"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        try:
            size = tuple(operator.index(side) for side in self.size)
            figures = [tuple(float(figure) for figure in getattr(self, name)) for name in ("mean", "std")]
            crop = float(self.crop)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"Preprocessing has a value of the wrong type: {error}.", hint="Its size is two whole numbers."
            ) from error
        for name, value in (("size", size), ("mean", figures[0]), ("std", figures[1]), ("crop", crop)):
            object.__setattr__(self, name, value)
        if len(size) != 2 or not all(0 < side <= LARGEST_SIDE for side in size):
            raise UsageError(
                f"Preprocessing makes no images of size {list(size)[:4]}.",
                hint=f"It is a height and a width, each from 1 to {LARGEST_SIDE} px.",
            )
        if len(self.mean) != len(self.std) or not 1 <= len(self.mean) <= MOST_CHANNELS:
            raise UsageError(
                f"Preprocessing has {len(self.mean)} means and {len(self.std)} deviations.",
                hint=f"Give one of each per image channel ({parameter('mean')}, {parameter('std')}).",
            )
        # What is outside would resize images to thousands of times their size, or drown them in a constant.
        within = all(abs(mean) <= 1e3 for mean in self.mean) and all(1e-4 <= std <= 1e4 for std in self.std)
        if not within or not SMALLEST_CROP <= crop <= 1:
            raise UsageError(
                "Preprocessing needs means up to 1000, deviations from 0.0001 to 10000, and a crop from "
                f"{SMALLEST_CROP} to 1.",
                where=str(self)[:300],
                hint=f"Mend {parameter('mean')}, {parameter('std')} or {parameter('crop')}.",
            )
        for name, known in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"Preprocessing does not know {name} {getattr(self, name)!r}.",
                    hint=f"Use one of: {', '.join(known)}.",
                )

    @property
    def channels(self) -> int:
        """Channels of the network's input: 1 reads images as grey, 3 as RGB."""
        return len(self.mean)

    @property
    def mode(self) -> str:
        """What image files are converted to, as Pillow calls it.

        Raises:
            UsageError: image files have no such number of channels.
        """
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(self.channels)
        if mode is None:
            raise UsageError(
                f"Image files have 1, 3 or 4 channels; this network takes {self.channels}.",
                hint="Feed such a network with tensors of your own through the Python interface.",
            )
        return mode

    def resized(self, image: tuple[int, int], scale: float = 1.0) -> list[int]:
        """(height, width) of an image of such a size when a window of `size` is the share `crop` of it, times `scale`:
        what is done with images whose pixels are classified."""
        ratio = scale * max(side / self.crop / has for side, has in zip(self.size, image, strict=True))
        return [max(round(side * ratio), 1) for side in image]

    def transform(self, *, normalize: bool = True) -> Callable[[Image], Tensor]:
        """Build the evaluation transform: a PIL image to a tensor [C, H, W].

        Args:
            normalize: float32 with mean and deviation applied; else uint8 as decoded and resized.
        """
        from timm.data import create_transform

        mode = self.mode
        pipeline: Callable[[Image], Tensor] = create_transform(
            input_size=(self.channels, *self.size),
            is_training=False,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            normalize=normalize,
        )
        return lambda image: pipeline(image if image.mode == mode else image.convert(mode))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """Inverse of `to_dict`, of what a file holds.

        Raises:
            UsageError: an unknown key, a value of another type, or one out of bounds.
        """
        known = [field.name for field in fields(cls)]
        unknown = [str(key)[:80] for key in values if key not in known] if isinstance(values, dict) else None
        if unknown is None or unknown:
            what = f"does not know {', '.join(sorted(unknown)[:5])}" if unknown else "is no table"
            raise UsageError(f"The preprocessing {what}.", hint=f"It has {', '.join(known)}.")
        try:
            return typed(cls, values)
        except ValueError as error:
            raise UsageError(f"The preprocessing has a value of the wrong type: {error}.") from error

    @classmethod
    def fitting(cls, values: Any, size: tuple[int, int], channels: int) -> Preprocessing:
        """What a file says of images (None: nothing, so the default), held to the input that the network has.

        Raises:
            ValueError: another type, unknown keys, or not of that input.
        """
        if values is None:
            return default_preprocessing(size, channels)
        try:
            found = cls.from_dict(values)
        except UsageError as error:
            raise ValueError(error.what.rstrip(".")) from None
        if (found.channels, *found.size) != (channels, *size):
            raise ValueError(
                f"its preprocessing makes images of {found.channels} x {found.size[0]} x {found.size[1]}, and the "
                f"network takes {channels} x {size[0]} x {size[1]}"
            )
        return found

    def override(self, **options: Any) -> Preprocessing:
        """Replace what is given (not None), as flags do."""
        return replace(self, **{key: value for key, value in options.items() if value is not None})


def default_preprocessing(size: tuple[int, int], channels: int) -> Preprocessing:
    """The documented default where a checkpoint says nothing.

    ImageNet's mean and deviation (0.5 and 0.5 unless there are 3 channels), bicubic. As in the paper's
    evaluation, resize to 256/224 of the size and crop up to 383 px, resize straight to size from 384 px;
    below 128 px, where data sets come at their native size, nothing is cropped either.
    """
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
    return Preprocessing(size=size, mean=mean, std=std, crop=0.875 if 128 <= min(size) < 384 else 1.0)
