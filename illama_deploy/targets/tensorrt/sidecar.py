"""What lies beside an engine: a JSON file that says what it is, and the checks that hold the engine to it.

All but `check_capability` need neither a GPU nor the package that built the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, UsageError
from ...export.record import plain_name, short
from ...hashing import sha256_file
from ...preprocessing import Preprocessing
from ...sealed import read_sealed, write_sealed
from ...tables import typed
from ...task_names import name_by_logits
from .package import MODULES, release

__all__ = [
    "SIDECAR_SCHEMA",
    "Sidecar",
    "check_batch",
    "check_capability",
    "check_files",
    "check_release",
    "read_sidecar",
    "sidecar_path",
    "write_sidecar",
]

SIDECAR_SCHEMA = "illama-deploy/engine/3"
AGAIN = "Build the engine again with 'illama-deploy export --trt'."
#: Compute capabilities, package versions and names of tensors, as they are put into messages and commands.
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,100}")


@dataclass(frozen=True)
class _Engine:
    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class _Onnx:
    file: str
    sha256: str


@dataclass(frozen=True)
class _Profile:
    min: int
    max: int


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Layer:
    name: str
    type: str
    precision: str


@dataclass(frozen=True)
class _Content:
    """A sidecar, as far as anything reads it; `layers` holds a key that no field can have."""

    engine: _Engine
    onnx: _Onnx
    flavor: str
    version: str
    compute_capabilities: tuple[str, ...]
    profile: _Profile
    input: _Tensor
    output: _Tensor
    classes: int
    format: str
    preprocessing: dict[str, Any] | None
    class_names: tuple[str, ...]
    data: str | None
    layers: dict[str, Any]
    rebuild: str
    manifest_sha256: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Sidecar:
    """A sidecar as read, with what loading needs at hand.

    Attributes:
        engine: the engine's path.
        sha256, size_bytes: of the engine.
        onnx, onnx_sha256: name and hash of the ONNX file that it was built from.
        manifest_sha256: of the quantized checkpoint, if it came from one.
        flavor: `tensorrt` or `rtx`.
        version: of the package that built the engine.
        capabilities: compute capabilities that it was built for, such as "8.9".
        batches: smallest and largest batch of its profile.
        input, output: tensor names.
        image: (channels, height, width) in pixels.
        logits: shape of one image's: (classes,), or of its pixels' (classes, height, width).
        task: what the network is for, a name of `task_names`.
        format: `W8A8`, ...
        preprocessing: what it expects of images.
        class_names: in label order, or empty where unknown.
        data: `digits`, where it belongs to the embedded data.
        layers: name, type and precision of each, and `layers_from`, where that is from.
        rebuild: the command that makes it again; to be shown, never run.
    """

    engine: Path
    sha256: str
    size_bytes: int
    onnx: str
    onnx_sha256: str
    manifest_sha256: str | None
    flavor: str
    version: str
    capabilities: tuple[str, ...]
    batches: tuple[int, int]
    input: str
    output: str
    image: tuple[int, int, int]
    logits: tuple[int, ...]
    format: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    data: str | None
    layers: tuple[tuple[str, str, str], ...]
    layers_from: str
    rebuild: str
    task: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.logits[0]

    def rebuild_for(self, **options: object) -> str:
        """The rebuild command with options replaced or added: `rebuild_for(max_batch=64)`."""
        command = self.rebuild
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            command = re.sub(rf" {flag} \S+", "", command) + f" {flag} {value}"
        return command


def sidecar_path(engine: Path) -> Path:
    """`model.engine` → `model.engine.json`."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(engine: Path, record: dict[str, Any]) -> Path:
    """Write a record beside an engine, with the hash over itself.

    Returns:
        The sidecar's path.
    """
    path = sidecar_path(engine)
    write_sealed(path, {"schema": SIDECAR_SCHEMA, **record})
    return path


def read_sidecar(engine: Path) -> Sidecar:
    """Read the sidecar of an engine and check that it is whole and unedited; the engine itself is not read.

    Raises:
        ArtifactError: missing, no JSON, of another schema, edited, or without something that loading needs.
    """
    path = sidecar_path(engine)
    if not path.exists():
        raise ArtifactError(
            "The engine has no sidecar beside it, so nobody can say what it is.",
            where=path,
            hint=f"Copy it from where the engine was built. {AGAIN}",
        )
    content = read_sealed(path, SIDECAR_SCHEMA, what="The engine's sidecar", again=AGAIN)
    try:
        return _sidecar(engine, typed(_Content, content))
    except ValueError as error:
        raise ArtifactError(f"The engine's sidecar cannot be used: {error}.", where=path, hint=AGAIN) from error


def _sidecar(engine: Path, said: _Content) -> Sidecar:
    """What a sidecar says, held to itself.

    Raises:
        ValueError: it does not fit together, or leads out of its folder.
    """
    for name in (said.engine.file, said.onnx.file):
        plain_name(name)
    if said.flavor not in MODULES:
        raise ValueError(f"there is no flavor {said.flavor[:40]!r}")
    for word in (said.version, *said.compute_capabilities, said.input.name, said.output.name):
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word[:40]!r} is no name or number that stands there")
    if len(said.input.shape) != 3 or min(said.input.shape) < 1:
        raise ValueError("its input is no batch of images")
    channels, height, width = said.input.shape
    logits = said.output.shape
    if logits[1:] not in ((), (height, width)) or logits[:1] != (said.classes,) or said.classes < 1:
        raise ValueError("the shape of its logits")
    if not 1 <= said.profile.min <= said.profile.max:
        raise ValueError("its batch profile does not ascend from 1")
    if len(said.class_names) not in (0, said.classes):
        raise ValueError(f"it names {len(said.class_names)} of {said.classes} classes")
    layers, source = typed(tuple[_Layer, ...], said.layers.get("list")), typed(str, said.layers.get("from"))
    rows = tuple((layer.name, layer.type, layer.precision) for layer in layers)
    for text in (said.format, said.rebuild, source, *said.class_names):
        short(text)
    return Sidecar(
        engine,
        said.engine.sha256,
        said.engine.bytes,
        said.onnx.file,
        said.onnx.sha256,
        said.manifest_sha256,
        said.flavor,
        said.version,
        said.compute_capabilities,
        (said.profile.min, said.profile.max),
        said.input.name,
        said.output.name,
        (channels, height, width),
        logits,
        said.format,
        Preprocessing.fitting(said.preprocessing, (height, width), channels),
        said.class_names,
        said.data if said.data == "digits" else None,
        rows,
        source,
        said.rebuild,
        name_by_logits(logits, said.task),
    )


def check_files(sidecar: Sidecar) -> None:
    """Hold the engine, and the ONNX file if it lies beside it, to the recorded hashes.

    Raises:
        ArtifactError: cut short, another engine, or the ONNX file was edited after the engine was built.
    """
    engine = sidecar.engine
    size = engine.stat().st_size
    if size < sidecar.size_bytes:
        raise ArtifactError(
            f"The engine is cut short: {size} of {sidecar.size_bytes} bytes.",
            where=engine,
            hint=f"Copy it again. {AGAIN}",
        )
    if (found := sha256_file(engine)) != sidecar.sha256:
        raise ArtifactError(
            f"The engine is not the one that its sidecar describes: its sha256 is {found[:12]}…, "
            f"not {sidecar.sha256[:12]}….",
            where=engine,
            hint=f"Copy engine and sidecar together. {AGAIN}",
        )
    onnx = engine.with_name(sidecar.onnx)
    if onnx.is_file() and sha256_file(onnx) != sidecar.onnx_sha256:
        raise ArtifactError(
            f"{onnx.name} was edited after {engine.name} was built from it, so they are no longer the same network.",
            where=onnx,
            hint=f"Restore {onnx.name}, or move it away if {engine.name} is the one that is meant. {AGAIN}",
        )


def check_release(sidecar: Sidecar, version: str) -> None:
    """Hold the installed package to the version that built the engine.

    Raises:
        ArtifactError: another release; engines are not portable between them.
    """
    if release(sidecar.flavor, version) != release(sidecar.flavor, sidecar.version):
        package = MODULES[sidecar.flavor]
        raise ArtifactError(
            f"The engine was built by {package} {sidecar.version}, and {version} is installed; "
            "engines do not run on another release.",
            where=sidecar.engine,
            hint=f"pip install '{package.replace('_', '-')}=={sidecar.version}', or build again: {sidecar.rebuild}",
        )


def check_capability(sidecar: Sidecar, capability: str) -> None:
    """Hold this machine's GPU to those that the engine was built for.

    Raises:
        ArtifactError: another compute capability.
    """
    if capability not in sidecar.capabilities:
        options = {"compute_capability": capability} if sidecar.flavor == "rtx" else {}
        raise ArtifactError(
            f"The engine was built for compute capability {', '.join(sidecar.capabilities)}, "
            f"and this GPU has {capability}.",
            where=sidecar.engine,
            hint=f"Build again for it: {sidecar.rebuild_for(**options)}",
        )


def check_batch(sidecar: Sidecar, batch: int) -> None:
    """Hold a batch size to the engine's profile.

    Raises:
        UsageError: outside.
    """
    smallest, largest = sidecar.batches
    if not smallest <= batch <= largest:
        option = {"max_batch": batch} if batch > largest else {"min_batch": batch}
        raise UsageError(
            f"A batch of {batch} is outside the engine's profile, {smallest} to {largest} images.",
            where=sidecar.engine,
            hint=f"Use a batch inside, or build again: {sidecar.rebuild_for(**option)}",
        )
