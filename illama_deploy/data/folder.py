"""Folders of images: PATH/CLASS/IMAGE, perhaps under split folders, or any folder of images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..errors import DataError, parameter
from ..names import shown
from .classes import NAMES_FILES, natural_order_note
from .decode import decode
from .scan import counted, scan, visible_folders
from .source import NO_LABEL, Request, Sample, Source, find_split, mentions_split, split_kind

__all__ = ["Folder", "open_folder"]


class Folder(Source):
    """Images in the order of their paths, class by class.

    Classes are the folders at the top, in alphabetical order of their names or in that of a names file. Where there are
    none, or where it cannot be told what they are, all images are taken, and have no labels.
    """

    def __init__(self, path: Path, split: str, names: Sequence[str] = ()) -> None:
        self.spec, self.split, self.root = f"folder:{path}", split, path
        self.places = (path,)
        found = scan(path)
        folders, notes = visible_folders(path), found.notes()
        inside = [image for image in found.images if image[0]]
        if not inside:
            self.unlabelled = "its images lie in no class folders (PATH/CLASS/IMAGE)"
            self.images = [(*image, NO_LABEL) for image in found.images]
        else:
            self.unlabelled = _no_classes(path, folders, inside, names)
            self._label(folders, inside, names, notes)
            if beside := len(found.images) - len(inside):
                notes.append(f"{counted(beside, 'image')} outside of the class folders left out")
        self.notes = tuple(notes)

    def _label(self, folders: list[str], images: list[tuple[str, str]], names: Sequence[str], notes: list[str]) -> None:
        """Give images their labels, and the classes their names."""
        if self.unlabelled:
            self.images = [(*image, NO_LABEL) for image in images]
            return
        order = {name: number for number, name in enumerate(names)} or {n: i for i, n in enumerate(map(shown, folders))}
        self.classes = tuple(order)
        # As torchvision orders them: class by class, then by folder, then by name.
        labelled = sorted((order[shown(_top(folder))], folder, name) for folder, name in images)
        self.images = [(folder, name, label) for label, folder, name in labelled]
        shows = {label for *_, label in self.images}
        if empty := [name for name, label in order.items() if label not in shows]:
            few = ", ".join(empty[:4]) + (", …" if len(empty) > 4 else "")
            notes.append(f"{len(empty)} of {len(order)} classes without an image: {few}")
        if not names and (note := natural_order_note(self.classes)):
            notes.append(note)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            folder, name, label = self.images[i]
            path = str(self.root / folder / name)
            yield Sample(i, shown(path), label, partial(decode, path))


def _top(folder: str) -> str:
    return folder.partition(os.sep)[0]


def _no_classes(path: Path, folders: Sequence[str], images: Sequence[tuple[str, str]], names: Sequence[str]) -> str:
    """Why the folders at the top are no classes; "" where they may be."""
    if names:
        others = [shown(name) for name in folders if shown(name) not in names]
        if not others:
            return ""
        return f"{shown(path.name)} has folders that the file of class names does not name: {', '.join(others[:4])}"
    # Splits of unknown names, say, hold the same folders each.
    if any(_top(folder) == folder for folder, _ in images):
        return ""
    below: dict[str, set[str]] = {}
    for folder, _ in images:
        top, _, rest = folder.partition(os.sep)
        below.setdefault(top, set()).add(_top(rest))
    shared = set.intersection(*below.values()) if len(below) > 1 else set()
    if len(shared) < 2:
        return ""
    tops, inner = (", ".join(sorted(map(shown, names))[:4]) for names in (below, shared))
    return (
        f"the folders {tops} hold the same folders ({inner}), so they are no classes; name one as "
        f"{parameter('split')}, or write "
        f"the classes' names to {NAMES_FILES[0]} there"
    )


def open_folder(request: Request) -> Source:
    """Open the folder, or the first of its split folders that exists."""
    path = Path(request.path)
    try:
        if not path.is_dir():
            raise DataError("There is no such folder.", where=shown(path), hint="Check the path after 'folder:'.")
        if path.resolve() == Path(path.anchor or path.resolve().anchor):
            raise DataError(
                "It is the whole file system.", where=shown(path), hint="Give the folder that holds the images."
            )
        if request.named and (path / request.splits[0]).is_dir() and request.splits[0] in visible_folders(path):
            return Folder(path / request.splits[0], request.splits[0], request.names)
        root, splits = _splits(path, request.names)
        if splits and request.splits:
            found = find_split(request.splits, splits)
            if found is not None:
                return Folder(root / found, found, request.names)
            raise DataError(
                f"It has no split folder {' or '.join(map(repr, request.splits))}.",
                where=shown(root),
                hint=f"Splits there: {', '.join(map(shown, splits))}; name one with {parameter('split')}.",
            )
        if not request.named:
            return Folder(path, "", request.names)
    except OSError as error:
        raise DataError(
            f"Cannot read it: {shown(error.strerror or error)}.",
            where=shown(error.filename or path),
            hint="Give a folder that you may read.",
        ) from error
    raise DataError(
        f"It has no split folder {request.splits[0]!r}.",
        where=shown(path),
        hint=f"Leave {parameter('split')} out where the class folders stand at the top.",
    )


def _splits(path: Path, names: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder that holds split folders, which may be the only one in `path`, and their names; none where there are
    no splits.

    Raises:
        DataError: folders that are splits by their names, but which is which cannot be told.
    """
    root = path
    for _ in range(3):
        folders = visible_folders(root)
        # A class may be called 'train'; a split holds folders, or has nothing but splits beside it.
        splits = [name for name in folders if split_kind(name) is not None]
        splits = [name for name in splits if len(splits) == len(folders) or visible_folders(root / name)]
        if splits:
            return root, splits
        unclear = [name for name in folders if mentions_split(name) and visible_folders(root / name)]
        if unclear and not names:
            raise DataError(
                f"Folders there are called like splits: {', '.join(map(shown, unclear[:6]))}.",
                where=shown(root),
                hint=f"Give one of them: {parameter(data=f'folder:{shown(root / unclear[0])}')}, or "
                f"{parameter(split=shown(unclear[0]))}.",
            )
        if len(folders) != 1 or not visible_folders(root / folders[0]):
            break
        root = root / folders[0]
    return path, []
