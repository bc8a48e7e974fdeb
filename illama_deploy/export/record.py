"""`export.json`: what an export wrote, proved, and from what; sealed, and read in one place.

Its file names are names in its own folder, and its texts are short: they end up in tables and on pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..hashing import sha256_file
from ..sealed import read_sealed, write_sealed
from ..tables import typed

__all__ = [
    "RECORD",
    "ExportRecord",
    "FileRecord",
    "LayerRecord",
    "ProofRecord",
    "plain_name",
    "read_record",
    "recorded_proof",
    "short",
]

RECORD = "export.json"
SCHEMA = "illama-deploy/export/2"
AGAIN = "Export it again: illama-deploy export, with --force."
#: Characters of the longest text.
LONGEST = 500


@dataclass(frozen=True)
class FileRecord:
    """A file of the export, by its hash and size."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """A file as it is now."""
        return cls(sha256_file(path), path.stat().st_size)


@dataclass(frozen=True)
class LayerRecord:
    """A layer as it was proven: see `LayerPrecision`."""

    name: str
    kernel: str
    precision: str
    site: str | None


@dataclass(frozen=True)
class ProofRecord:
    """What was proven: see `KernelProof`."""

    summary: str
    kernels: dict[str, int]
    layers: list[LayerRecord]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ParityRecord:
    """What `--verify` found: see `Parity`."""

    runtime: str
    departs: str | None
    layers: dict[str, float]


@dataclass(frozen=True)
class ExportRecord:
    """The record of an export.

    Attributes:
        target: name of the target.
        manifest_sha256: of the quantized checkpoint; None of a float one.
        source_sha256: of the float checkpoint, where that took part.
        spelled: what became of formats of which the target takes the weights alone.
        files: name to hash and size; ONNX files, and what lies beside those.
        engines: names of engines, each with its own sidecar.
        batches: sizes that every file was run at.
        runtimes: package to the lowest version that loads the files.
        versions: package to the version that took part here.
    """

    target: str
    manifest_sha256: str | None
    source_sha256: str | None
    simulated: bool
    spelled: dict[str, str]
    temperature: float
    files: dict[str, FileRecord]
    engines: list[str]
    online_rotations: dict[str, int]
    batches: list[int]
    runtimes: dict[str, str]
    proof: ProofRecord | None
    parity: ParityRecord | None
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write it, sealed, into a directory that is being made."""
        write_sealed(directory / RECORD, {"schema": SCHEMA, **asdict(self)})

    def proof_of(self, name: str, sha256: str) -> dict[str, Any] | None:
        """What was proven of a file, if it is the quantized one of this record."""
        found = self.files.get(name)
        if self.proof is None or Path(name).stem != "model" or found is None or found.sha256 != sha256:
            return None
        return self.proof.to_dict()


def read_record(directory: Path, *, files: bool = False) -> ExportRecord:
    """Read the record of an export.

    Args:
        files: hold the files that are there to it, too.

    Raises:
        ArtifactError: it cannot be used, or a file is not the one that was exported.
    """
    path = directory / RECORD
    content = read_sealed(path, SCHEMA, what="The record of the export", again=AGAIN)
    try:
        record = typed(ExportRecord, content)
        for name in (*record.files, *record.engines):
            plain_name(name)
        for text in _texts(content):
            short(text)
    except ValueError as error:
        raise ArtifactError(f"The record of the export cannot be used: {error}.", where=path, hint=AGAIN) from error
    for name, about in record.files.items() if files else ():
        file = directory / name
        if file.is_file() and FileRecord.of(file) != about:
            raise ArtifactError(
                "The file is not the one that was exported (its hash differs).", where=file, hint="Export it again."
            )
    return record


def recorded_proof(path: Path, sha256: str) -> dict[str, Any] | None:
    """What was proven of a file when it was exported, if that record lies beside it and is of this file."""
    return read_record(path.parent).proof_of(path.name, sha256) if (path.parent / RECORD).is_file() else None


def plain_name(name: str) -> str:
    """Return what is the name of a file in the same folder.

    Raises:
        ValueError: it leads elsewhere, or is none.
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0") or len(name) > 255:
        raise ValueError(f"{name[:80]!r} is no name of a file in the same folder")
    return name


def short(text: str) -> str:
    """Return a text that can stand in a table.

    Raises:
        ValueError: it is too long, or holds control characters.
    """
    if len(text) > LONGEST or not all(sign.isprintable() for sign in text):
        raise ValueError(f"the text {text[:40]!r} is too long, or holds what cannot be printed")
    return text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
