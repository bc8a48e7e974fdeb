"""What `torch.save` writes: a zip archive with a pickle and a member for each storage, or the older row of pickles.

Nothing is unpacked and nothing mapped: tensors are read from their places when they are asked for, so the optimizer's
states of a training checkpoint cost no memory.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from .stored import Content, DamagedError, RefusedError, StoredTensor, dense, extent
from .unpickle import LARGEST, Storage, Unpickler

__all__ = ["METADATA_KEY", "ZIP", "read_legacy", "read_zip"]

#: Where our own metadata stands: a key of the `.pth` dictionary, or of the safetensors header (as JSON).
METADATA_KEY = "illama_deploy"
ZIP = b"PK\x03\x04"
#: The number that the older format opens with, and its version.
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
CHUNK = 2**22
END, LOCAL = struct.Struct("<4s4H2IH"), struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class _Member:
    start: int
    size: int


def read_zip(file: BinaryIO, size: int) -> Content:
    """Open a zip archive that `torch.save` wrote; every member's checksum is compared.

    Raises:
        DamagedError, RefusedError: see there.
    """
    members = _members(file, size)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    root = pickles[0].removesuffix("data.pkl") if pickles else ""
    if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in members):
        raise RefusedError("a TorchScript archive, which is a program")
    if len(pickles) != 1:
        raise DamagedError("it is a zip archive without torch's data.pkl")
    if f"{root}byteorder" in members and _content(file, members[f"{root}byteorder"]) != b"little":
        raise DamagedError("it was written on a machine of another byte order")

    def storage(
        dtype: torch.dtype | None, width: int, odd: str, key: Any, location: Any, count: Any, *others: Any
    ) -> Storage:
        member = members.get(f"{root}data/{key}") if isinstance(key, str) else None
        if member is None or type(count) is not int or member.size != count * width:
            raise DamagedError(f"storage {str(key)[:40]!r} has another size than its tensors say, or is not there")
        return Storage(key, dtype, width, count, odd)

    def locate(
        storage: Storage, offset: int, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> StoredTensor:
        start = members[f"{root}data/{storage.key}"].start + offset * dtype.itemsize
        size = extent(shape, stride) * dtype.itemsize
        return StoredTensor(dtype, shape, (start, size, stride), size, dense(file, start, dtype, shape, stride))

    data = _content(file, members[pickles[0]])
    tree = Unpickler(io.BytesIO(data), len(data), storage, locate).read_value()
    return Content(tree, tree.get(METADATA_KEY) if isinstance(tree, dict) else None)


def _members(file: BinaryIO, size: int) -> dict[str, _Member]:
    """Where the members lie, none compressed, none over another, each with the checksum that it has."""
    file.seek(max(size - END.size, 0))
    tail = file.read(END.size)
    # torch writes no comment, so the archive's end is the file's; its table is small beside the tensors.
    if len(tail) < END.size or not tail.startswith(b"PK\x05\x06"):
        raise DamagedError("its zip archive has no end")
    table = END.unpack(tail)[5]
    if table > LARGEST and table != 0xFFFFFFFF:
        raise DamagedError("its zip archive has too many members")
    try:
        entries = sorted(zipfile.ZipFile(file).infolist(), key=lambda entry: entry.header_offset)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
        raise DamagedError(f"its zip archive is damaged ({error})") from error
    if entries and not any(entry.CRC for entry in entries):
        raise DamagedError("it was saved without checksums (torch.serialization.set_crc32_options); save it with them")
    members: dict[str, _Member] = {}
    for number, entry in enumerate(entries):
        name = entry.filename[:80]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise DamagedError(f"{name} is compressed, which torch.save never does")
        file.seek(entry.header_offset)
        local = file.read(LOCAL.size)
        if len(local) < LOCAL.size or not local.startswith(ZIP):
            raise DamagedError(f"{name} is not where the archive says")
        start = entry.header_offset + LOCAL.size + sum(LOCAL.unpack(local)[-2:])
        behind = entries[number + 1].header_offset if number + 1 < len(entries) else size
        if entry.filename in members or start + entry.file_size > behind:
            raise DamagedError(f"{name} stands in it twice, or over another member")
        if _crc(file, start, entry.file_size) != entry.CRC:
            raise DamagedError(f"the checksum of {name} is wrong: something in it was altered")
        members[entry.filename] = _Member(start, entry.file_size)
    return members


def _crc(file: BinaryIO, start: int, size: int) -> int:
    file.seek(start)
    crc = 0
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc if not size else -1


def _content(file: BinaryIO, member: _Member) -> bytes:
    if member.size > LARGEST:
        raise DamagedError("its pickle is larger than any that goes with weights")
    file.seek(member.start)
    return file.read(member.size)


def _starts(file: BinaryIO, size: int, storages: Sequence[Storage]) -> dict[str, int]:
    """Where each storage's numbers start, which stand one behind the other from here on.

    Raises:
        DamagedError: one has another size, or the file is cut short.
    """
    starts, place = {}, file.tell()
    for known in storages:
        file.seek(place)
        if file.read(8) != struct.pack("<q", known.count):
            raise DamagedError(f"storage {known.key[:40]!r} has another size than its tensors say")
        starts[known.key], place = place + 8, place + 8 + known.count * known.width
        if place > size:
            raise DamagedError("it is cut short")
    return starts


def read_legacy(file: BinaryIO, size: int) -> Content:
    """Open a file of torch before 1.6 (or a bare pickle, which holds no tensors that can be read).

    Raises:
        DamagedError, RefusedError: see there.
    """
    storages: dict[str, Storage] = {}

    def storage(
        dtype: torch.dtype | None, width: int, odd: str, key: Any, location: Any, count: Any, view: Any = None
    ) -> Storage:
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise DamagedError("a storage has no name or no size")
        found = storages.setdefault(key, Storage(key, dtype, width, count, odd))
        if (found.dtype, found.count) != (dtype, count):
            raise DamagedError(f"storage {key[:40]!r} has two sizes")
        if view is None:
            return found
        if not isinstance(view, tuple) or len(view) != 3 or any(type(n) is not int or n < 0 for n in view[1:]):
            raise DamagedError("a part of a storage has no place")
        if view[1] + view[2] > count:
            raise DamagedError("a part of a storage lies outside of it")
        return Storage(key, dtype, width, view[2], odd, view[1])

    starts: dict[str, int] = {}

    def locate(
        storage: Storage, offset: int, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> StoredTensor:
        first, size = (storage.start + offset) * dtype.itemsize, extent(shape, stride) * dtype.itemsize

        def fetch() -> torch.Tensor:
            return dense(file, starts[storage.key] + first, dtype, shape, stride)()

        return StoredTensor(dtype, shape, (storage.key, first, size, stride), size, fetch)

    def value() -> Any:
        return Unpickler(file, size - file.tell(), storage, locate).read_value()

    if (number := value()) != MAGIC:
        raise DamagedError(f"it holds {type(number).__name__}, and no tensors as torch.save writes them")
    if value() != VERSION:
        raise DamagedError("it is of another version of torch's format")
    system = value()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise DamagedError("it was written on a machine of another byte order")
    tree, keys = value(), value()
    if not isinstance(keys, list) or len(keys) != len(storages) or {str(key) for key in keys} != set(storages):
        raise DamagedError("its storages are not those of its tensors")
    starts |= _starts(file, size, [storages[key] for key in keys])
    return Content(tree, tree.get(METADATA_KEY) if isinstance(tree, dict) else None)
