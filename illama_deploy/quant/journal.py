"""What long work has finished so far, kept beside its output, so that the same command goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic import new_file
from ..hashing import canonical_json

__all__ = ["Journal"]

KEY = "key.json"


class Journal:
    """Named sets of tensors in a directory that belongs to one command.

    Args:
        directory: where they are kept; what another command left there is removed.
        key: all that determines the result.
    """

    def __init__(self, directory: Path, key: Mapping[str, Any]) -> None:
        self.directory = directory
        text = canonical_json(dict(key))
        if not _holds(directory / KEY, text):
            shutil.rmtree(directory, ignore_errors=True)
            with new_file(directory / KEY) as path:
                path.write_text(text, encoding="utf-8")

    def get(self, name: str) -> dict[str, Tensor] | None:
        """What was put under a name, or None."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.directory / f"{name}.safetensors")
        except (OSError, SafetensorError):
            return None

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name; whole, or not at all."""
        from safetensors.torch import save_file

        with new_file(self.directory / f"{name}.safetensors", force=True) as path:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
