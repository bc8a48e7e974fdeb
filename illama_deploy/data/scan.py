"""Image files under a folder, and in words what was left out of it."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..errors import DataError
from ..names import shown
from .decode import image_suffixes

__all__ = ["Found", "counted", "leave_out", "scan", "visible_folders"]

#: Folders that tools leave beside images, besides hidden ones.
TOOL_FOLDERS = ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "System Volume Information", "$RECYCLE.BIN")
#: Files that are no images, after which a folder with few images is taken for a mistake (`folder:/`).
TOO_MANY = 100_000


@dataclass
class Found:
    """What lies under a folder.

    Attributes:
        images: (folder, name) of each image, the folder relative to the root and "" for the root itself; sorted.
        left_out: other files, counted by their ending.
        skipped: folders that were not looked into.
    """

    images: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    looping: list[str] = field(default_factory=list)
    links: int = 0

    def notes(self) -> list[str]:
        """In words, what was left out and what is there twice."""
        lines = [leave_out(self.left_out)] if self.left_out else []
        if self.skipped:
            lines.append(f"{counted(len(self.skipped), 'folder')} not looked into: {_some(self.skipped)}")
        if self.looping:
            lines.append(
                f"{counted(len(self.looping), 'link')} left out, to folders that are read anyway: {_some(self.looping)}"
            )
        if self.links:
            lines.append(f"{counted(self.links, 'image')} counted again: links to others that are read, too")
        return lines


def counted(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def leave_out(kinds: Counter[str]) -> str:
    """`17 files left out: .gif 12, no ending 5`."""
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{shown(kind)} {count}" for kind, count in most[:6]] + (["…"] if len(most) > 6 else [])
    return f"{counted(sum(kinds.values()), 'file')} left out: {', '.join(parts)}"


def _some(names: Collection[str]) -> str:
    few = sorted(shown(name) for name in names)
    return ", ".join(few[:4]) + (", …" if len(few) > 4 else "")


def is_hidden(name: str) -> bool:
    """Whether nobody means this file or folder when speaking of the images there."""
    return name.startswith(".") or name in TOOL_FOLDERS


def visible_folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones and those of tools left out."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def scan(root: Path, *, suffixes: Iterable[str] | None = None) -> Found:
    """Find the images under a folder; links are followed, each folder is read once.

    Raises:
        OSError: a folder cannot be read.
        DataError: nearly everything there is something else.
    """
    wanted, found = frozenset(suffixes or image_suffixes()), Found()
    seen: set[tuple[int, int]] = set()
    inodes, linked = array("Q"), []  # of files, of what links lead to
    # Real folders first, so that it is the link that is left out where both lead to one place.
    waiting: list[str] = [""]
    links: list[str] = []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        about = (root / folder).stat()
        if (about.st_dev, about.st_ino) in seen:
            found.looping.append(folder)
            continue
        seen.add((about.st_dev, about.st_ino))
        inner = []
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = os.path.join(folder, entry.name)  # noqa: PTH118  (a million Paths take a while)
                if entry.is_dir():
                    if is_hidden(entry.name):
                        found.skipped.append(name)
                    elif entry.is_symlink():
                        links.append(name)
                    else:
                        inner.append(name)
                elif not entry.is_file():
                    found.left_out["no regular file"] += 1
                elif is_hidden(entry.name):
                    found.left_out["hidden"] += 1
                elif (suffix := PurePath(entry.name).suffix.lower()) in wanted:
                    found.images.append((folder, entry.name))
                    if entry.is_symlink():
                        linked.append(entry.stat().st_ino)
                    else:
                        inodes.append(entry.inode())
                else:
                    found.left_out[suffix or "no ending"] += 1
        waiting += reversed(inner)
        if (others := sum(found.left_out.values())) > TOO_MANY and others > 10 * len(found.images):
            raise DataError(
                f"It is no folder of images: {others} files that are none, and {len(found.images)} images so far.",
                where=shown(root),
                hint="Give the folder that holds the images.",
            )
    found.images.sort()
    found.links = _repeated(inodes, linked)
    return found


def _repeated(inodes: array[int], linked: list[int]) -> int:
    """How many files are the same as another one."""
    import numpy as np

    everything = np.concatenate([np.frombuffer(inodes, np.uint64), np.array(linked, np.uint64)])
    return len(everything) - len(np.unique(everything))
