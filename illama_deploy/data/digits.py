"""scikit-learn's 1,797 handwritten digits: 8×8 grey pixels, ten classes, no download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from ..errors import DataError, parameter
from ..names import shown
from .source import Request, Sample, Source

__all__ = ["open_digits"]


class Digits(Source):
    """Even positions are for training, odd ones are held out: half is needed to tell small drops from luck."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, split: str) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        part = slice(0, None, 2) if split == "train" else slice(1, None, 2)
        self.spec, self.split = "digits", split
        # 0..16 to 0..255
        self.pixels = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
        self.labels = digits.target[part].astype(int)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            yield Sample(i, f"digit {i}", int(self.labels[i]), partial(Image.fromarray, self.pixels[i]))


def open_digits(request: Request) -> Source:
    """Open one half."""
    for split in request.splits:
        if split in ("train", "test"):
            return Digits(split)
    named = shown(request.splits[0] if request.splits else "")
    raise DataError(
        f"digits has no split {named!r}.", hint=f"Use {parameter(split='train')} or {parameter(split='test')}."
    )
