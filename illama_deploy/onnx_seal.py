"""The seal of an ONNX file: a moved file is still known for what was written, before any parser or runtime sees it.

Protobuf messages may be continued by appending fields. So the last bytes of the file are one more entry of its
`metadata_props`, `illama_deploy.seal`, whose value is the SHA-256 of all bytes before it. Every ONNX reader takes the
file as it is; ours compares the hash first. A seal shows damage and edits, and is no signature: whoever edits a file
can seal it again, so what a sealed file says is still read with care.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import ArtifactError
from .onnx_metadata import PREFIX

__all__ = ["append_seal", "read_seal"]

KEY = f"{PREFIX}seal".encode()
_ENTRY_BEFORE_VALUE = bytes([0x0A, len(KEY)]) + KEY + bytes([0x12, 64])
#: Field 14 of ModelProto, a message of this length: the key as its field 1, the value as its field 2.
_HEAD = bytes([14 << 3 | 2, len(_ENTRY_BEFORE_VALUE) + 64]) + _ENTRY_BEFORE_VALUE
_LENGTH = len(_HEAD) + 64


def append_seal(path: Path) -> None:
    """Seal a file that has just been written."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_HEAD + digest.encode())


def read_seal(path: Path) -> bool:
    """Whether a file is sealed; only its bytes are looked at, and nothing is parsed.

    Raises:
        ArtifactError: the seal is not of this content.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _LENGTH:
            return False
        file.seek(size - _LENGTH)
        head, value = file.read(len(_HEAD)), file.read(64)
        if head != _HEAD:
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - _LENGTH
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    if left or digest.hexdigest().encode() != value:
        raise ArtifactError(
            "The file was changed after it was written: it does not have the hash that it carries.",
            where=path,
            hint="Copy it again from where it was exported, or export it again.",
        )
    return True
