"""Any data set that timm can open: `timm:torch/cifar10?root=data`, `timm:hfds/...`, `timm:wds/...`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO

from PIL import Image

from ..errors import DataError
from .source import Sample, Source

__all__ = ["open_timm"]


class TimmDataset(Source):
    """Map-style and iterable data sets alike; an iterable one is passed through up to the last index wanted."""

    def __init__(self, dataset: Any, spec: str, split: str) -> None:
        self.spec, self.split, self.dataset = spec, split, dataset
        names = getattr(dataset, "classes", None)
        self.classes = tuple(map(str, names)) if names else ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i, label, load in self._items(indices):
            yield Sample(i, f"{self.spec} item {i}", int(label), load)

    def _items(self, indices: Sequence[int]) -> Iterator[tuple[int, int, Callable[[], Image.Image]]]:
        from timm.data import ImageDataset

        if isinstance(self.dataset, ImageDataset):
            # Its own access puts the next image in the place of a broken one; its reader does not.
            for i in indices:
                file, label, *_ = self.dataset.reader[i]
                yield i, label, partial(_decode, file)
        elif hasattr(self.dataset, "__getitem__"):
            for i in indices:
                image, label = self.dataset[i]
                yield i, label, partial(_same, image)
        else:
            wanted = iter(indices)
            target = next(wanted, None)
            for i, (image, label) in enumerate(self.dataset):
                if target is None:
                    return
                if i == target:
                    yield i, label, partial(_same, image)
                    target = next(wanted, None)


def _decode(file: BinaryIO) -> Image.Image:
    with file, Image.open(file) as image:
        image.load()
        return image


def _same(image: Image.Image) -> Image.Image:
    return image


def open_timm(rest: str, splits: tuple[str, ...], named: bool) -> Source:
    """Open with `timm.data.create_dataset`; nothing is downloaded."""
    from timm.data import create_dataset

    name, _, query = rest.partition("?")
    options = dict(part.partition("=")[::2] for part in query.split("&") if part)
    root = options.pop("root", None)
    if options:
        raise DataError(f"A timm spec does not take {', '.join(options)}.", hint="Write timm:NAME?root=PATH.")
    problems = []
    for split in splits:
        try:
            return TimmDataset(create_dataset(name, root=root, split=split, download=False), f"timm:{rest}", split)
        except Exception as error:
            problems.append(f"{split}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise DataError(
        f"timm cannot open {name!r} ({'; '.join(problems)}).",
        where=f"timm:{rest}",
        hint="Check the name, the root (timm:NAME?root=PATH) and --split.",
    )
