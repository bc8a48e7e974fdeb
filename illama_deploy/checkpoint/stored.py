"""A tensor that lies in a file: what is known of it before any of it is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = [
    "FLOATS",
    "Content",
    "DamagedError",
    "RefusedError",
    "StoredTensor",
    "dense",
    "extent",
    "is_finite",
    "read_bytes",
]

#: What weights may be stored as. Anything else (integers, 8-bit floats, complex numbers) needs more than itself.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class DamagedError(Exception):
    """A file that is cut short, altered, or of no kind that is read here; the text says what was found."""


class RefusedError(Exception):
    """A file that asks for more than being read; the text names it."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        shape: elements along each axis.
        place: where its elements are; two tensors with one place are one.
        size: bytes that are read for it.
        odd: what it is instead of a plain dense tensor, or nothing.
        fetch: reads it, in its own type and contiguous.
    """

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    place: tuple[Any, ...]
    size: int
    fetch: Callable[[], Tensor]
    odd: str = ""


@dataclass(frozen=True)
class Content:
    """An opened checkpoint.

    Attributes:
        tree: nested dictionaries with `StoredTensor`s among other values.
        metadata: what stands beside the tensors under our name; anything.
        sealed: whether the metadata must carry a seal over themselves and the tensors.
    """

    tree: Any
    metadata: Any = None
    sealed: bool = False


def read_bytes(file: BinaryIO, start: int, size: int) -> Tensor:
    """Read `size` bytes from a place in a file: uint8 [size], in memory of its own.

    Raises:
        DamagedError: the file ends before.
    """
    data = torch.empty(size, dtype=torch.uint8)
    view = memoryview(data.numpy().data)
    file.seek(start)
    done = 0
    while done < size:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise DamagedError("it ends inside a tensor")
        done += count
    return data


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; without a copy, which torch.isfinite makes."""
    return not tensor.numel() or all(map(math.isfinite, (edge.item() for edge in torch.aminmax(tensor))))


def dense(
    file: BinaryIO,
    start: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
) -> Callable[[], Tensor]:
    """How to read a dense tensor whose first element is at byte `start`."""

    def fetch() -> Tensor:
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        if stride is None:
            return read_bytes(file, start, math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
        data = read_bytes(file, start, extent(shape, stride) * dtype.itemsize).view(dtype)
        return data.as_strided(shape, stride).contiguous()

    return fetch


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from a tensor's first to its last in memory."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if math.prod(shape) else 0
