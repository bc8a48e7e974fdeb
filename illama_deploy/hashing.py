"""Hashes of files and of JSON values: what was measured is what ships."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .names import shown

__all__ = ["canonical_json", "sha256_file", "sha256_files"]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and hashes of several files, in that order, in hexadecimal."""
    lines = [f"{path.name} {sha256_file(path)}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def canonical_json(value: Any) -> str:
    """Indented JSON with a final newline, keys as given: the same value gives the same bytes.

    Bytes of a name that are no UTF-8, which come as lone surrogates and which no file takes, are written as `shown`.

    Raises:
        ValueError: a figure in it is not finite; who writes it says null instead.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return re.sub("[\ud800-\udfff]", lambda found: json.dumps(shown(found[0]))[1:-1], text)
