"""What stands beside a program, and is checked before ExecuTorch sees a byte of it: a `.pte` says nothing of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import ArtifactError
from ...export.record import FileRecord, short
from ...preprocessing import Preprocessing
from ...runtime import ArtifactInfo
from ...sealed import read_sealed, write_sealed
from ...tables import typed
from ...task_names import name_by_logits

__all__ = ["Program", "describe", "read_program", "sidecar_path", "write_sidecar"]

SCHEMA = "illama-deploy/program/1"
AGAIN = "Export it again: illama-deploy export --executorch."


@dataclass(frozen=True)
class Program:
    """A program by what stands beside it.

    Attributes:
        program: its hash and size.
        image: (channels, height, width) of the one image that it takes at a time.
        classes: number of logits.
        gemms: names of its GEMMs, in the order in which they run; a quantized site's is the site's.
        runtimes: package to the lowest version that loads it.
        data: `digits` where it belongs to the embedded data, or None.
        task: what the network is for, a name of `task_names`.
    """

    program: FileRecord
    format: str
    target: str
    image: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    gemms: tuple[str, ...]
    runtimes: dict[str, str]
    source_sha256: str
    manifest_sha256: str | None = None
    data: str | None = None
    temperature: str | None = None
    task: str | None = None

    @property
    def prepared(self) -> Preprocessing:
        """What it expects of images."""
        channels, height, width = self.image
        return Preprocessing.fitting(self.preprocessing, (height, width), channels)


def sidecar_path(path: Path) -> Path:
    """`model.pte` → `model.pte.json`."""
    return path.with_name(f"{path.name}.json")


def write_sidecar(
    path: Path, about: Mapping[str, str], image: tuple[int, int, int], classes: int, gemms: tuple[str, ...]
) -> Path:
    """Write down beside a program what it is.

    Args:
        about: as ONNX files take it (`export.file`).
    """
    program = Program(
        FileRecord.of(path),
        about["format"],
        about["target"],
        image,
        classes,
        tuple(json.loads(about["classes"])),
        json.loads(about["preprocessing"]),
        gemms,
        json.loads(about["runtimes"]),
        about["source_sha256"],
        about.get("manifest_sha256"),
        about.get("data"),
        about.get("temperature"),
        about["task"],
    )
    write_sealed(sidecar_path(path), {"schema": SCHEMA, **asdict(program)})
    return sidecar_path(path)


def read_program(path: Path) -> Program:
    """Read what stands beside a program, and hold the program to it.

    Raises:
        ArtifactError: that is missing, damaged or edited, or the program is another.
    """
    beside = sidecar_path(path)
    content = read_sealed(beside, SCHEMA, what="What stands beside the program", again=AGAIN)
    try:
        found = typed(Program, {key: value for key, value in content.items() if key != "schema"})
        texts = (
            found.format,
            found.target,
            *found.class_names,
            *found.gemms,
            *found.runtimes,
            *found.runtimes.values(),
        )
        for text in texts:
            short(text)
        if len(found.class_names) not in (0, found.classes):
            raise ValueError(f"it names {len(found.class_names)} of {found.classes} classes")
        if min(*found.image, found.classes) < 1:
            raise ValueError("it takes no image")
        name_by_logits((found.classes,), found.task)
        found.prepared  # noqa: B018  (raises what is wrong with it)
    except ValueError as error:
        raise ArtifactError(
            f"What stands beside the program cannot be used: {error}.", where=beside, hint=AGAIN
        ) from error
    try:
        here = FileRecord.of(path)
    except OSError as error:
        raise ArtifactError(f"It cannot be read: {error.strerror or error}.", where=path) from error
    if here != found.program:
        raise ArtifactError("The program is not the one that was exported (its hash differs).", where=path, hint=AGAIN)
    return found


def describe(name: str, program: Program, provider: str) -> ArtifactInfo:
    """What a report says of it."""
    return ArtifactInfo(
        name,
        program.format,
        "executorch",
        provider,
        program.program.bytes,
        program.program.sha256,
        program.manifest_sha256,
    )
