"""What a long search has measured, a small JSON file for each, kept beside its output until that is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..atomic import new_file
from ..hashing import canonical_json

__all__ = ["Journal"]


class Journal:
    """A hidden folder beside `final`, named after a hash of all that decides what is measured.

    Another checkpoint, recipe or draw of images makes another folder, so nothing stale is ever taken up.
    """

    def __init__(self, final: Path, decides: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(canonical_json(decides).encode()).hexdigest()
        self.folder = final.absolute().with_name(f".{final.name}.search-{digest[:16]}")

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured under this name; it is measured now if it never was, or its file is damaged."""
        path = self.folder / f"{name}.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            pass
        value = measure()
        with new_file(path, force=True) as aside:
            aside.write_text(canonical_json(value), encoding="utf-8")
        return value

    def remove(self) -> None:
        """Forget everything: the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
