"""Hashes of files and of JSON values: what was measured is what ships."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["canonical_json", "sha256_file"]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Indented JSON with a final newline, keys as given: the same value gives the same bytes.

    Raises:
        ValueError: a figure in it is not finite; who writes it says null instead.
    """
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
