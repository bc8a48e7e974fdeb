"""How an image file becomes the network's input: one frozen value, one path for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing", "default_preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
CROP_MODES = ("center", "squash", "border")


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
        for name in ("size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise UsageError(
                f"Preprocessing has {len(self.mean)} means and {len(self.std)} deviations.",
                hint="Give one of each per image channel (--mean, --std).",
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0 or not 0 < self.crop <= 1:
            raise UsageError(
                "Preprocessing needs finite means, deviations above 0, and a crop in (0, 1].",
                where=str(self),
                hint="Mend --mean, --std or --crop.",
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
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`; unknown keys are an error."""
        if not isinstance(values, dict) or (unknown := set(values) - {f.name for f in fields(cls)}):
            what = f"does not know {', '.join(sorted(unknown))}" if isinstance(values, dict) else "is no table"
            raise UsageError(f"The preprocessing {what}.", hint=f"It has {', '.join(f.name for f in fields(cls))}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"The preprocessing has a value of the wrong type: {error}.") from error

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
