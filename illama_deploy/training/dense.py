"""Training images with a label for every pixel: image and labels are resized, cropped and mirrored together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import IGNORE, Sample, labels_of
from ..errors import RecipeError, UsageError
from ..preprocessing import Preprocessing
from .images import TimmImages

__all__ = ["DenseImages"]


class DenseImages(TimmImages):
    """Changed one by one by torchvision's transforms, in worker processes: zoom, crop, mirror, jitter colours.

    Zoom 1 is the size that networks are evaluated at: a window is the share `crop` of the image.
    """

    def prepare(self, preprocessing: Preprocessing) -> None:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        recipe, self.preprocessing = self.recipe, preprocessing
        if recipe.mixup or recipe.cutmix:
            raise RecipeError("Images whose pixels are classified cannot be mixed.", hint="Leave mixup and cutmix out.")
        if self.micro_batch < 2:
            raise UsageError(
                "BatchNorm needs at least two images at a time.", hint="Raise --micro-batch or --batch-size."
            )
        jitter = recipe.color_jitter if preprocessing.channels == 3 else 0.0
        self.change = v2.Compose(
            [
                v2.RandomCrop(
                    preprocessing.size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
                ),
                v2.RandomHorizontalFlip(recipe.flip),
                v2.ColorJitter(jitter, jitter, jitter),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
            ]
        )

    def item(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """A window of the sample's image, and its labels."""
        from torchvision import tv_tensors
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as tv

        own = self.preprocessing
        image = self.load(sample, lambda image: image.convert(own.mode))
        assert sample.mask is not None
        labels = tv_tensors.Mask(labels_of(sample.mask(image.size))[None])
        low, high = self.recipe.zoom
        zoom = low + (high - low) * float(torch.rand(()))
        ratio = zoom * max(side / own.crop / has for side, has in zip(own.size, labels.shape[-2:], strict=True))
        size = [max(round(side * ratio), 1) for side in labels.shape[-2:]]
        image = tv.resize(image, size, InterpolationMode(own.interpolation))
        x_CHW, labels_1HW = self.change(
            tv_tensors.Image(tv.pil_to_tensor(image)), tv.resize(labels, size, InterpolationMode.NEAREST)
        )
        return x_CHW.as_subclass(Tensor), labels_1HW[0].as_subclass(Tensor)
