"""Decode, preprocess and batch images, one after the other; none is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, parameter
from ..preprocessing import Preprocessing
from .classes import require_classes
from .decode import BrokenMaskError, UndecodableError, alteration
from .scan import counted
from .segmentation import labels_of
from .source import NO_LABEL, Sample, Source, resized

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Batch", "Loader", "sample_indices"]

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """images float32 [B, C, H, W]; labels [B], or of pixels [B, H, W] (`IGNORE` where there is no class): int64 where
    they are classes, float32 where they are values."""

    images: Tensor
    labels: Tensor


class Loader:
    """Batches of preprocessed images in the source's order; may be iterated again.

    Args:
        classes: number of classes of the network; another number in the data is an error. None where it has none
            (`task_names.classes_of`), and any labels do.
        names: of the network's classes; others in the data, or another order, are an error.
        labels: whether labels are needed; if not, they are not checked, and batches hold `NO_LABEL`.
        indices: ascending positions to read; all where not given.
        skip_broken: leave out images that cannot be decoded (listed in `skipped`) instead of stopping.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        *,
        classes: int | None,
        names: Sequence[str] = (),
        labels: bool = True,
        batch_size: int = 64,
        indices: Sequence[int] | None = None,
        skip_broken: bool = False,
    ) -> None:
        if labels:
            source.require_labels()
        require_classes(source, classes, names, labels=labels)
        self.source, self.classes, self.batch_size = source, classes, batch_size
        self.preprocessing = preprocessing
        self.indices = range(len(source)) if indices is None else indices
        self.skip_broken = skip_broken
        self.names, self.labels = tuple(names), labels
        self.skipped: list[str] = []
        self.altered: Counter[str] = Counter()
        self._transform = preprocessing.transform()
        self._mask_transform = replace(preprocessing, mean=(0.0,), std=(1.0,), interpolation="nearest").transform(
            normalize=False
        )

    def __len__(self) -> int:
        """Images to read, broken ones included."""
        return len(self.indices)

    @property
    def notes(self) -> list[str]:
        """What was left out, altered or guessed, in words; for images, during the last pass over them."""
        guessed = [] if self.names or not self.class_names else ["the classes' names are the data's"]
        altered = [f"{counted(n, 'image')}: {what}" for what, n in sorted(self.altered.items())]
        return [*self.source.notes, *guessed, *altered]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The network's class names, the data's where it has none of its own; empty where nobody knows them."""
        theirs = self.source.classes if self.source.by_name else ()
        return self.names or (theirs if len(theirs) == self.classes else ())

    def __iter__(self) -> Iterator[Batch]:
        self.skipped, self.altered = [], Counter()
        images: list[Tensor] = []
        labels: list[Tensor] = []
        for sample in self.source.read(self.indices):
            found = self.decode(sample, lambda image: (self._transform(image), image.size))
            if found is None:
                continue
            image, size = found
            if not self.labels:
                label = torch.tensor(NO_LABEL)
            elif sample.mask is not None:
                mask = self.decode_mask(sample, size)
                if mask is None:
                    continue
                label = self._labels(mask)
            else:
                label = torch.tensor(self._label(sample))
            images.append(image)
            labels.append(label)
            if len(images) == self.batch_size:
                yield Batch(torch.stack(images), torch.stack(labels))
                images, labels = [], []
        if images:
            yield Batch(torch.stack(images), torch.stack(labels))
        if len(self.skipped) == len(self.indices):
            raise DataError("No image could be decoded.", where=self.source.spec, hint="Check the files.")

    def _label(self, sample: Sample) -> float:
        """The sample's label, an int where it is a class.

        Raises:
            DataError: it is none of the network's.
        """
        if sample.label >= 0 and (self.classes is None or sample.label < self.classes):
            return sample.label
        raise DataError(
            "The image has no label that is a class."
            if sample.label == NO_LABEL or self.classes is None
            else f"Label {sample.label} is outside the network's {self.classes} classes.",
            where=sample.name,
            hint="Give the data that the network was trained for.",
        )

    def _labels(self, mask: Image) -> Tensor:
        """Labels [H, W] of a mask that is resized and cropped as its image."""
        return labels_of(self._mask_transform(mask)[0])

    def decode(self, sample: Sample, transform: Callable[[Image], T]) -> T | None:
        """The sample's image, transformed; None where it is broken and such images are left out.

        Raises:
            DataError: it is broken, or cannot be transformed, which `skip_broken` does not leave out.
        """
        try:
            image = sample.load()
        except UndecodableError as error:
            if self.skip_broken:
                self.skipped.append(sample.name)
                return None
            raise DataError(
                f"The image cannot be decoded ({error}).",
                where=sample.name,
                hint=f"Mend or remove it, or leave broken images out with {parameter(skip_broken=True)} (they are "
                "counted).",
            ) from error
        if (change := alteration(image)) is not None:
            self.altered[change] += 1
        return resized(sample, image, transform)

    def decode_mask(self, sample: Sample, size: tuple[int, int]) -> Image | None:
        """The labels of the pixels of a sample's image; None where they are broken and such images are left out.

        Raises:
            DataError: they are broken, or are no labels of this image.
        """
        assert sample.mask is not None
        try:
            return sample.mask(size)
        except BrokenMaskError:
            if not self.skip_broken:
                raise
            self.skipped.append(sample.name)
            return None


def sample_indices(total: int, count: int, seed: int) -> list[int]:
    """Draw `count` of `total` positions without replacement, ascending (all of them where there are fewer)."""
    if count >= total:
        return list(range(total))
    chosen = np.random.default_rng(seed).choice(total, count, replace=False)
    return sorted(int(i) for i in chosen)
