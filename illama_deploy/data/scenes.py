"""Whole images with their labels, undivided: what a network that classifies pixels is measured on, window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ..preprocessing import Preprocessing
from .loader import Loader
from .segmentation import labels_of

__all__ = ["Scene", "Scenes"]


@dataclass(frozen=True)
class Scene:
    """One image.

    Attributes:
        image: of the mode that the network takes, in its own size.
        labels: int64 [H, W], `IGNORE` where there is no class.
    """

    name: str
    image: Image.Image
    labels: np.ndarray
    preprocessing: Preprocessing

    def view(self, scale: float = 1.0, *, flip: bool = False) -> tuple[Tensor, tuple[int, int]]:
        """The image resized and normalised, float32 [C, H, W], and its (height, width) before it was filled up.

        Resized so that a window of the network's size is the share `crop` of it, times `scale`. Filled up with the
        mean, right and below, where a window would not fit.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as tv

        own = self.preprocessing
        size = own.resized((self.labels.shape[0], self.labels.shape[1]), scale)
        image = tv.resize(self.image, size, InterpolationMode(own.interpolation))
        pixels = tv.to_dtype(tv.pil_to_tensor(tv.horizontal_flip(image) if flip else image), torch.float32, scale=True)
        x_CHW = tv.normalize(pixels, list(own.mean), list(own.std))
        down, right = (max(side - has, 0) for side, has in zip(own.size, size, strict=True))
        return F.pad(x_CHW, (0, right, 0, down)), (size[0], size[1])


class Scenes(Loader):
    """The images of a source one by one; options as of a `Loader`."""

    classes: int

    def scenes(self) -> Iterator[Scene]:
        """Yield them; may be called again."""
        self.skipped, self.altered = [], Counter()
        for sample in self.source.read(self.indices):
            image = self.decode(sample, lambda image: image.convert(self.preprocessing.mode))
            mask = None if image is None else self.decode_mask(sample, image.size)
            if image is not None and mask is not None:
                yield Scene(sample.name, image, labels_of(mask).numpy(), self.preprocessing)
        if len(self.skipped) == len(self.indices):
            raise DataError("No image could be decoded.", where=self.source.spec, hint="Check the files.")
