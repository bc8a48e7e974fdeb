"""Class folders: PATH/CLASS/IMAGE, or PATH/SPLIT/CLASS/IMAGE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from ..errors import DataError
from .source import Sample, Source

__all__ = ["decode", "open_folder"]


class Folder(Source):
    """Classes are the folders' names in alphabetical order; images follow their paths' order."""

    def __init__(self, path: Path, split: str) -> None:
        from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

        self.spec, self.split = f"folder:{path}", split
        try:
            names, index = find_classes(str(path))
        except FileNotFoundError:
            raise DataError(
                "The folder holds no class folders.",
                where=path,
                hint="Lay images out as PATH/CLASS/IMAGE, or as PATH/SPLIT/CLASS/IMAGE.",
            ) from None
        self.classes = tuple(names)
        self.samples = make_dataset(str(path), index, IMG_EXTENSIONS, allow_empty=True)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            path, label = self.samples[i]
            yield Sample(i, path, label, partial(decode, path))


def decode(path: str) -> Image.Image:
    """Open and decode an image file."""
    with Image.open(path) as image:
        image.load()
        return image


def open_folder(rest: str, splits: tuple[str, ...], named: bool) -> Source:
    """Open `rest`, or the first of its split folders that exists."""
    path = Path(rest)
    try:
        if not path.is_dir():
            raise DataError("There is no such folder.", where=path, hint="Check the path after 'folder:'.")
        for split in splits:
            inner = path / split
            if inner.is_dir() and any(child.is_dir() for child in inner.iterdir()):
                return Folder(inner, split)
        if not named:
            return Folder(path, "")
    except OSError as error:
        raise DataError(
            f"Cannot read it: {error.strerror or error}.", where=path, hint="Give a folder that you may read."
        ) from error
    raise DataError(
        f"It has no split folder {splits[0]!r}.",
        where=path,
        hint="Leave --split out where the class folders stand at the top.",
    )
