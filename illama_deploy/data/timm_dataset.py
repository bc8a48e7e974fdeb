"""Data sets on this machine that timm reads: `timm:torch/cifar10?root=data`, `timm:folder?root=data`.

Its other readers (`hfds/`, `hfids/`, `tfds/`, `wds/`, tar files) reach the network, start programs that a spec or an
index names, or unpickle what lies beside the data: they are not opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ..errors import DataError, parameter
from ..names import shown
from .decode import UndecodableError, decode
from .source import NO_LABEL, Request, Sample, Source

__all__ = ["open_timm"]


class TimmDataset(Source):
    """A map-style data set."""

    def __init__(self, dataset: Any, spec: str, split: str) -> None:
        self.spec, self.split, self.dataset = spec, split, dataset
        names = getattr(dataset, "classes", None)
        if (numbers := getattr(getattr(dataset, "reader", None), "class_to_idx", None)) is not None:
            names = sorted(numbers, key=numbers.__getitem__)
        self.classes = tuple(map(shown, names)) if names else ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        from timm.data import ImageDataset

        for i in indices:
            try:
                if isinstance(self.dataset, ImageDataset):
                    # Its own access puts the next image in the place of a broken one; its reader does not.
                    found, label, *_ = self.dataset.reader[i]
                else:
                    found, label, *_ = self.dataset[i]
                number = NO_LABEL if label is None else int(label)
            except Exception as error:  # a data set may read and decode here
                yield Sample(i, f"{self.spec} item {i}", NO_LABEL, partial(_raise, error))
                continue
            yield Sample(i, f"{self.spec} item {i}", number, partial(_load, found))


def _load(found: Image.Image | BinaryIO) -> Image.Image:
    return found if isinstance(found, Image.Image) else decode(found)


def _raise(error: Exception) -> Image.Image:
    raise UndecodableError(shown(error)) from error


def open_timm(request: Request) -> Source:
    """Open with `timm.data.create_dataset`; nothing is downloaded."""
    from timm.data import create_dataset

    name, root = request.path, request.options.get("root")
    spec = f"timm:{name}" + (f"?root={root}" if root else "")
    reader, slash, _ = name.partition("/")
    if slash and reader != "torch":
        raise DataError(
            f"timm's reader {shown(reader)!r} does not read from this machine alone.",
            where=shown(spec),
            hint="Use timm:torch/NAME?root=PATH or timm:folder?root=PATH; of other data sets save parquet:PATH.",
        )
    if not root or not Path(root).is_dir():
        raise DataError(
            "A timm spec needs the folder that the data set lies in.",
            where=shown(spec),
            hint="Write timm:NAME?root=PATH.",
        )
    problems = []
    for split in request.splits:
        try:
            dataset = create_dataset(name, root=root, split=split, download=False)
            return TimmDataset(dataset, spec, split)
        except Exception as error:
            problems.append(f"{split}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise DataError(
        f"timm cannot open {shown(name)!r} ({shown('; '.join(problems))}).",
        where=shown(spec),
        hint=f"Check the name, the root (timm:NAME?root=PATH) and {parameter('split')}.",
    )
