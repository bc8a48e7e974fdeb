"""What the user named on this machine: where a checkpoint lies, and which images belong to an artifact.

A file may say neither: it may come from somebody else, and a path or a data spec in it would be opened without anybody
having asked for it; nor should what ships tell where it was built. So artifacts carry hashes, and the user's own state
directory remembers what was typed when they were made. Where it knows nothing, the user is asked.
"""

from __future__ import annotations

import hashlib
import os
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from .atomic import new_file
from .errors import ArtifactError
from .sealed import read_sealed, write_sealed
from .tables import typed

__all__ = [
    "Images",
    "images_of",
    "made_elsewhere",
    "path_of",
    "remember_images",
    "remember_made",
    "remember_path",
]

SCHEMA = "illama-deploy/memory/2"
MOST = 50


@dataclass(frozen=True)
class Images:
    """A data spec as it was typed, and where.

    Attributes:
        spec: as typed.
        folder: the current folder then; relative paths in the spec start there.
    """

    spec: str
    folder: str


def remember_path(sha256: str, path: Path) -> None:
    """Remember where the file (or the artifact of that hash) lies."""
    _write("path", sha256, {"path": _quoted(str(path.absolute()))})


def path_of(sha256: str) -> Path | None:
    """Where a file of that hash was last, or None; whoever opens it compares the hash."""
    found = _read("path", sha256)
    return Path(_unquoted(str(found["path"]))) if found and "path" in found else None


def remember_images(sha256: str, spec: str) -> None:
    """Remember which images were named for an artifact of that hash."""
    _write("images", sha256, {"spec": _quoted(spec), "folder": _quoted(str(Path.cwd()))})


def images_of(*sha256: str | None) -> Images | None:
    """The images that were named for one of the artifacts, the first that is known."""
    for one in sha256:
        found = _read("images", one) if one else None
        if found:
            try:
                known = typed(Images, found)
                return Images(_unquoted(known.spec), _unquoted(known.folder))
            except ValueError:
                continue
    return None


def remember_made(workspace: Path, made: Mapping[str, Any]) -> None:
    """Remember an artifact that was made for a workspace and lies elsewhere; the last `MOST` are kept."""
    key = _key(workspace)
    known = [one for one in made_elsewhere(workspace) if one.get("sha256") != made["sha256"]]
    _write("made", key, {"made": [*known, dict(made)][-MOST:]})


def made_elsewhere(workspace: Path) -> list[dict[str, Any]]:
    """What was remembered so, in its order."""
    found = (_read("made", _key(workspace)) or {}).get("made")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _quoted(text: str) -> str:
    """Names of files may be any bytes, and JSON takes text alone: what is no printable ASCII is written as %xx."""
    return quote(os.fsencode(text), safe=string.punctuation.replace("%", "") + " ")


def _unquoted(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))


def _key(workspace: Path) -> str:
    return hashlib.sha256(os.fsencode(workspace.absolute())).hexdigest()


def _place(kind: str, sha256: str) -> Path:
    from platformdirs import user_state_path

    # os.fsencode: XDG_STATE_HOME may be any bytes.
    return user_state_path("illama-deploy", appauthor=False) / kind / f"{sha256}.json"


def _read(kind: str, sha256: str) -> dict[str, Any] | None:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):  # it is part of a file's name
        return None
    try:
        return read_sealed(_place(kind, sha256), SCHEMA, what="What is remembered", again="Name it again.")
    except (ArtifactError, OSError, RuntimeError):
        return None


def _write(kind: str, sha256: str, values: dict[str, Any]) -> None:
    """Keep it where that is possible; without, the user names it again."""
    try:
        with new_file(_place(kind, sha256), force=True) as path:
            write_sealed(path, {"schema": SCHEMA, **values})
    except (ArtifactError, OSError, RuntimeError, UnicodeEncodeError):  # the last: a name that is no UTF-8
        pass
