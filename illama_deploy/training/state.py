"""`state.pt`: a file that torch reads, sealed in its own comment, and what stands in it, typed.

torch writes a zip archive and checks none of its checksums when it reads. So the archive's comment, which every reader
skips, gets the SHA-256 of all that stands before it: a bit that flipped is an error, not other weights.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import torch
from torch import Tensor

from ..options.groups import MOST_THREADS
from ..sealed import parse_json
from ..tables import typed

__all__ = ["Means", "Position", "State", "read_state", "write_state"]

SCHEMA = "illama-deploy/run/2"
#: Bytes of a digest in hexadecimal, and of the length that a zip archive ends with where it has no comment.
SEAL, LENGTH = 64, struct.Struct("<H")

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


@dataclass(frozen=True)
class Means:
    """What the last bits of the weights hang on, besides recipe, data and start: sums in another order round otherwise.

    Attributes:
        threads: of torch, in each process.
        processes, micro_batch: how a batch is divided.
        compiled: whether the blocks are.
        device: the GPU, or the instructions that torch's kernels use on this CPU.
        torch: its version.
    """

    threads: Annotated[int, msgspec.Meta(ge=1, le=MOST_THREADS)]
    processes: Count
    micro_batch: Count
    compiled: bool
    device: str
    torch: str


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        epoch, step: whole epochs, and updates in the one that was begun.
        updates: all of them.
        sums: loss and updates of the epoch that was begun.
    """

    epoch: Count
    step: Count
    updates: Count
    sums: tuple[float, float]


@dataclass(frozen=True)
class State:
    """A run's state, as read.

    Attributes:
        identity: what is trained, key by key.
        parts: the state of each part, by name; tensors in dicts and lists.
    """

    identity: dict[str, Any]
    means: Means
    position: Position
    parts: dict[str, dict[Any, Any]]


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write and seal a file, down to the disk. `content`: what `State` has, as plain values, its identity as JSON.

    Raises:
        OSError, RuntimeError: it cannot be written (torch's writer raises the latter).
    """
    with path.open("w+b") as file:
        torch.save({"schema": SCHEMA, **content}, file)
        file.seek(-LENGTH.size, os.SEEK_END)
        if LENGTH.unpack(file.read()) != (0,):
            raise RuntimeError("torch's archive ends in another way than a zip archive without a comment does")
        file.seek(-LENGTH.size, os.SEEK_END)
        file.write(LENGTH.pack(SEAL))
        file.write(_digest(file, file.tell()))
        file.flush()
        os.fsync(file.fileno())


def read_state(path: Path) -> State:
    """Read a sealed file.

    Raises:
        ValueError: in words: the seal does not hold, or something is not there, or of another type.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - SEAL, 0))
        if file.read() != _digest(file, max(size - SEAL, 0)):
            raise ValueError("its content does not match its seal: cut short, altered, or written by an older version")
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("torch compresses no part of it, and one is compressed")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except ValueError:
            raise
        except pickle.UnpicklingError as error:
            raise ValueError("it holds more than tensors and plain values, or it is cut short") from error
        except Exception as error:  # a damaged file can raise nearly anything from inside the reader
            raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"it is no state of this version ({SCHEMA})")
    # A tensor may claim any shape on one number.
    if sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content)) > size:
        raise ValueError("its tensors are larger than the file")
    identity = parse_json(typed(str, content.get("identity")))
    if not isinstance(identity, dict):
        raise ValueError("its identity is no table")
    return State(
        identity,
        typed(Means, content.get("means")),
        typed(Position, content.get("position")),
        {name: typed(dict, part) for name, part in typed(dict[str, Any], content.get("parts")).items()},
    )


def _digest(file: BinaryIO, end: int) -> bytes:
    """Of the first `end` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while end:
        block = file.read(min(end, 2**20))
        if not block:
            break
        digest.update(block)
        end -= len(block)
    return digest.hexdigest().encode()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
