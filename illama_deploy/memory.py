"""What the user named on this machine: where a checkpoint lies, and which images belong to an artifact.

A file may say neither: it may come from somebody else, and a path or a data spec in it would be opened without anybody
having asked for it; nor should what ships tell where it was built. So artifacts carry hashes, and the user's own state
directory remembers what was typed when they were made. Where it knows nothing, the user is asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .atomic import new_file
from .errors import ArtifactError
from .sealed import read_sealed, write_sealed
from .tables import typed

__all__ = ["Images", "images_of", "path_of", "remember_images", "remember_path"]

SCHEMA = "illama-deploy/memory/1"


@dataclass(frozen=True)
class Images:
    """A data spec as it was typed, and where.

    Attributes:
        spec: as typed.
        split: as typed, or None.
        folder: the current folder then; relative paths in the spec start there.
    """

    spec: str
    split: str | None
    folder: str


def remember_path(sha256: str, path: Path) -> None:
    """Remember where the file (or the artifact of that hash) lies."""
    _write("path", sha256, {"path": str(path.absolute())})


def path_of(sha256: str) -> Path | None:
    """Where a file of that hash was last, or None; whoever opens it compares the hash."""
    found = _read("path", sha256)
    return Path(str(found["path"])) if found and "path" in found else None


def remember_images(sha256: str, spec: str, split: str | None) -> None:
    """Remember which images were named for an artifact of that hash."""
    _write("images", sha256, {"spec": spec, "split": split, "folder": str(Path.cwd())})


def images_of(*sha256: str | None) -> Images | None:
    """The images that were named for one of the artifacts, the first that is known."""
    for one in sha256:
        found = _read("images", one) if one else None
        if found:
            try:
                return typed(Images, found)
            except ValueError:
                continue
    return None


def _place(kind: str, sha256: str) -> Path:
    from platformdirs import user_state_path

    # os.fsencode: XDG_STATE_HOME may be any bytes.
    return user_state_path("illama-deploy", appauthor=False) / kind / f"{sha256}.json"


def _read(kind: str, sha256: str) -> dict[str, object] | None:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):  # it is part of a file's name
        return None
    try:
        return read_sealed(_place(kind, sha256), SCHEMA, what="What is remembered", again="Name it again.")
    except (ArtifactError, OSError, RuntimeError):
        return None


def _write(kind: str, sha256: str, values: dict[str, str | None]) -> None:
    """Keep it where that is possible; without, the user names it again."""
    if any(value is not None and os.fsencode(value).decode("utf-8", "replace") != value for value in values.values()):
        return
    try:
        with new_file(_place(kind, sha256), force=True) as path:
            write_sealed(path, {"schema": SCHEMA, **values})
    except (ArtifactError, OSError, RuntimeError):
        pass
