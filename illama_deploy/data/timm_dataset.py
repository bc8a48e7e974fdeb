"""Any data set that timm can open: `timm:torch/cifar10?root=data`, `timm:hfds/...`, `timm:wds/...`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

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
        if hasattr(self.dataset, "__getitem__"):
            for i in indices:
                # Decoding and the label come together here, so a broken image shows when it is loaded.
                item = _Item(self.dataset, i)
                yield Sample(i, f"{self.spec} item {i}", item.label(), item.image)
            return
        wanted = iter(indices)
        target = next(wanted, None)
        for i, (image, label) in enumerate(self.dataset):
            if target is None:
                return
            if i == target:
                yield Sample(i, f"{self.spec} item {i}", int(label), partial(_same, image))
                target = next(wanted, None)


class _Item:
    def __init__(self, dataset: Any, index: int) -> None:
        self.dataset, self.index = dataset, index
        self.pair: Any = None
        self.error: Exception | None = None
        try:
            self.pair = dataset[index]
        except Exception as error:
            self.error = error

    def label(self) -> int:
        return -1 if self.pair is None else int(self.pair[1])

    def image(self) -> Any:
        if self.error is not None:
            raise ValueError(str(self.error)) from self.error
        return self.pair[0]


def _same(image: Any) -> Any:
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
