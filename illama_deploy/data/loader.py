"""Decode, preprocess, batch: images pass through, none is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..preprocessing import Preprocessing
from .segmentation import labels_of
from .source import Sample, Source

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Batch", "Loader", "sample_indices"]

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """images float32 [B, C, H, W]; labels int64 [B], or of pixels [B, H, W] (`IGNORE` where there is no class)."""

    images: Tensor
    labels: Tensor


class Loader:
    """Batches of preprocessed images in the source's order; may be iterated again.

    Args:
        classes: number of classes of the network; another number in the data is an error.
        indices: ascending positions to read; all where not given.
        skip_broken: leave out images that cannot be decoded (listed in `skipped`) instead of stopping.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        *,
        classes: int,
        batch_size: int = 64,
        indices: Sequence[int] | None = None,
        skip_broken: bool = False,
    ) -> None:
        if source.classes and len(source.classes) != classes:
            raise DataError(
                f"The data has {len(source.classes)} classes and the network {classes}.",
                where=source.spec,
                hint="Give the data that the network was trained for.",
            )
        self.source, self.classes, self.batch_size = source, classes, batch_size
        self.preprocessing = preprocessing
        self.indices = range(len(source)) if indices is None else indices
        self.skip_broken = skip_broken
        self.skipped: list[str] = []
        self._transform = preprocessing.transform()
        self._mask_transform = replace(preprocessing, mean=(0.0,), std=(1.0,), interpolation="nearest").transform(
            normalize=False
        )

    def __len__(self) -> int:
        """Images to read, broken ones included."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        images: list[Tensor] = []
        labels: list[Tensor] = []
        for sample in self.source.read(self.indices):
            found = self.decode(sample, lambda image: (self._transform(image), image.size))
            if found is None:
                continue
            image, size = found
            if not 0 <= sample.label < self.classes:
                raise DataError(
                    f"Label {sample.label} is outside the network's {self.classes} classes.",
                    where=sample.name,
                    hint="Give the data that the network was trained for.",
                )
            images.append(image)
            labels.append(torch.tensor(sample.label) if sample.mask is None else self._labels(sample.mask(size)))
            if len(images) == self.batch_size:
                yield Batch(torch.stack(images), torch.stack(labels))
                images, labels = [], []
        if images:
            yield Batch(torch.stack(images), torch.stack(labels))
        if len(self.skipped) == len(self.indices):
            raise DataError("No image could be decoded.", where=self.source.spec, hint="Check the files.")

    def _labels(self, mask: Image) -> Tensor:
        """Labels [H, W] of a mask that is resized and cropped as its image."""
        return labels_of(self._mask_transform(mask)[0])

    def decode(self, sample: Sample, transform: Callable[[Image], T]) -> T | None:
        """The sample's image, transformed; None where it is broken and such images are left out.

        Raises:
            DataError: it is broken.
        """
        try:
            return transform(sample.load())
        except (OSError, ValueError, SyntaxError) as error:
            if self.skip_broken:
                self.skipped.append(sample.name)
                return None
            raise DataError(
                f"The image cannot be decoded ({error}).",
                where=sample.name,
                hint="Mend or remove it, or leave broken images out with --skip-broken (they are counted).",
            ) from error


def sample_indices(total: int, count: int, seed: int) -> list[int]:
    """Draw `count` of `total` positions without replacement, ascending (all of them where there are fewer)."""
    if count >= total:
        return list(range(total))
    chosen = np.random.default_rng(seed).choice(total, count, replace=False)
    return sorted(int(i) for i in chosen)
