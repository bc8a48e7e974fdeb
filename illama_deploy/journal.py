"""What long work has finished so far, kept beside its output, so that the same command goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import MARK, beside, new_file
from .errors import ArtifactError, parameter
from .hashing import canonical_json
from .sealed import SEAL, parse_json, read_sealed, write_sealed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Journal"]

KEY, SCHEMA = "key.json", "illama-deploy/journal/1"
SUFFIX = f"{MARK}-unfinished"
DIGEST = 32


class Journal:
    """Named tensors and measurements, each a file of its own in a hidden directory beside `output`.

    Whoever opens one owns the output (see `atomic.owned`). A file that is damaged counts as not there.

    Args:
        output: what the work will write.
        decides: all that determines the result; what work of another kind left there is removed.

    Raises:
        ArtifactError: something that is no journal has its name.
    """

    def __init__(self, output: Path, decides: Mapping[str, Any]) -> None:
        self.directory = beside(output.absolute(), SUFFIX)
        key = self.directory / KEY
        if os.path.lexists(self.directory):
            empty = self.directory.is_dir() and not any(self.directory.iterdir())
            if self.directory.is_symlink() or not (key.is_file() or empty):
                raise ArtifactError(
                    "Something stands where unfinished work would be kept, and nothing here made it.",
                    where=self.directory,
                    hint=f"Move it away, or name another place with {parameter('out')}.",
                )
        wanted = canonical_json(dict(decides))
        try:
            known = read_sealed(key, SCHEMA, what="The journal", again="Run the command again.").get("decides")
        except ArtifactError:
            known = None
        if known != wanted:
            shutil.rmtree(self.directory, ignore_errors=True)
            with new_file(key) as path:
                write_sealed(path, {"schema": SCHEMA, "decides": wanted})

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The tensors that were put under a name, or None."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            content = (self.directory / f"{name}.safetensors").read_bytes()
            digest, data = content[:DIGEST], content[DIGEST:]
            return load(data) if hashlib.sha256(data).digest() == digest else None
        except (OSError, SafetensorError):
            return None

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name; whole, or not at all."""
        from safetensors.torch import save

        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        with new_file(self.directory / f"{name}.safetensors", force=True) as path, path.open("wb") as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured under a name; it is measured now if it never was, or its file is damaged."""
        path = self.directory / f"{name}.json"
        try:
            found = read_sealed(path, SCHEMA, what="The measurement", again="Measure again.")
            return {key: value for key, value in found.items() if key not in ("schema", SEAL)}
        except ArtifactError:
            pass
        value = parse_json(canonical_json(measure()))
        with new_file(path, force=True) as aside:
            write_sealed(aside, {"schema": SCHEMA, **value})
        return dict(value)

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self.directory, ignore_errors=True)
