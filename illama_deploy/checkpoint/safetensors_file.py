"""A `.safetensors` file: a header of bounded size, checked by the format's own library, and tensors at their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from ..paths import require_utf8
from ..sealed import parse_json
from ..tables import typed
from .stored import Content, DamagedError, StoredTensor, dense
from .torch_file import METADATA_KEY

__all__ = ["read_safetensors", "tensors_of"]

#: A header holds some hundred bytes for each tensor, and names of classes.
LARGEST = 8 * 2**20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors(file: BinaryIO, size: int, path: Path) -> Content:
    """Open it.

    Raises:
        DamagedError: the header is no JSON, too large, or contradicts the file's size.
    """
    header, about, start = _header(file, size, path)
    tree = {name: _stored(file, start, name, entry) for name, entry in header.items()}
    if METADATA_KEY not in about:
        return Content(tree)
    try:
        return Content(tree, parse_json(about[METADATA_KEY]), sealed=True)
    except ValueError as error:
        raise DamagedError(f"its metadata is no JSON: {error}") from error


def tensors_of(path: Path) -> Mapping[str, StoredTensor]:
    """Names and shapes of a file's tensors; nothing of it stays open, each tensor's `fetch` opens it anew.

    Raises:
        DamagedError: see `read_safetensors`; or it is not there.
    """
    with path.open("rb") as file:
        header, _, start = _header(file, path.stat().st_size, path)

    def reopened(name: str) -> Callable[[], torch.Tensor]:
        def fetch() -> torch.Tensor:
            with path.open("rb") as file:
                return _stored(file, start, name, header[name]).fetch()

        return fetch

    def described(name: str) -> StoredTensor:
        known = _stored(None, start, name, header[name])
        return StoredTensor(known.dtype, known.shape, known.place, known.size, reopened(name), known.odd)

    return {name: described(name) for name in header}


def _header(file: BinaryIO, size: int, path: Path) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """The header's entries, its metadata, and where the tensors begin."""
    from safetensors import SafetensorError, safe_open

    require_utf8(path)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LARGEST):
        raise DamagedError("its header is longer than the file, or than any that goes with weights")
    try:
        # The library compares types, shapes and places with each other and with the file's size.
        with safe_open(path, framework="pt"):
            pass
        header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        about = typed(dict[str, str], header.pop("__metadata__", {}))
        return typed(dict[str, _Entry], header), about, 8 + length
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedError(str(error)) from error


def _stored(file: BinaryIO | None, start: int, name: str, entry: _Entry) -> StoredTensor:
    first, last = entry.data_offsets
    dtype = DTYPES.get(entry.dtype)

    def nothing() -> torch.Tensor:
        raise DamagedError(f"{name} has the type {entry.dtype}")

    fetch = nothing if dtype is None or file is None else dense(file, start + first, dtype, entry.shape)
    place = (start + first, last - first)
    return StoredTensor(dtype, entry.shape, place, last - first, fetch, "" if dtype else entry.dtype)
