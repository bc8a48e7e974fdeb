"""Training images with a label for every pixel: image and labels are resized, cropped and mirrored together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data import IGNORE, Sample, labels_of
from ..errors import RecipeError, UsageError, parameter
from ..preprocessing import Preprocessing
from .images import TimmImages

if TYPE_CHECKING:
    from PIL.Image import Image

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
                "BatchNorm needs two images at a time.",
                hint=f"Raise {parameter('micro_batch')} or {parameter('batch_size')}.",
            )
        jitter = recipe.color_jitter if preprocessing.channels == 3 else 0.0
        outside = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
        steps = [
            v2.RandomCrop(preprocessing.size, pad_if_needed=True, fill=outside),
            v2.RandomHorizontalFlip(recipe.flip),
            v2.ColorJitter(jitter, jitter, jitter),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
        ]
        self.change = v2.Compose(steps)

    def item(self, sample: Sample, image: Image) -> tuple[Tensor, Tensor]:
        """A window of the sample's image, and its labels."""
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import InterpolationMode as Mode
        from torchvision.transforms.v2 import functional as tv

        own, (low, high) = self.preprocessing, self.recipe.zoom
        assert sample.mask is not None
        mask = sample.mask(image.size)
        size = own.resized((mask.height, mask.width), low + (high - low) * float(torch.rand(())))
        # Both by Pillow: torch's nearest pixel is another one.
        picture, mask = tv.resize(image, size, Mode(own.interpolation)), tv.resize(mask, size, Mode.NEAREST)
        pixels, labels = tv_tensors.Image(tv.pil_to_tensor(picture)), tv_tensors.Mask(labels_of(mask)[None])
        x_CHW, labels_1HW = self.change(pixels, labels)
        return x_CHW.as_subclass(Tensor), labels_1HW[0].as_subclass(Tensor)
