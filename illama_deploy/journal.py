"""What long work has finished so far, kept beside its output, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import new_file
from .hashing import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Journal"]

KEY = "key.json"


class Journal:
    """Named tensors and measurements, each a file of its own in a hidden directory beside `output`.

    Args:
        output: what the work will write.
        decides: all that determines the result; what work of another kind left there is removed.
    """

    def __init__(self, output: Path, decides: Mapping[str, Any]) -> None:
        output = output.absolute()
        self.directory = output.with_name(f".{output.name}.unfinished")
        text = canonical_json(dict(decides))
        if not _holds(self.directory / KEY, text):
            shutil.rmtree(self.directory, ignore_errors=True)
            with new_file(self.directory / KEY) as path:
                path.write_text(text, encoding="utf-8")

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The tensors that were put under a name, or None."""
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

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured under a name; it is measured now if it never was, or its file is damaged."""
        path = self.directory / f"{name}.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            pass
        value = measure()
        with new_file(path, force=True) as aside:
            aside.write_text(canonical_json(value), encoding="utf-8")
        return value

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
