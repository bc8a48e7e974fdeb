"""What lies beside an engine: a JSON file that says what it is, and the checks that hold the engine to it.

All but `check_capability` need neither a GPU nor the package that built the engine.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, UsageError
from ..hashing import canonical_json, sha256_file
from .trt_package import MODULES, release

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

SIDECAR_SCHEMA = "illama-deploy/engine/2"
#: Its own hash, over everything else in it: an edit by hand shows.
SEAL = "sidecar_sha256"
AGAIN = "Build the engine again with 'illama-deploy export --trt'."


@dataclass(frozen=True)
class Sidecar:
    """A sidecar as read, with what loading needs at hand.

    Attributes:
        engine: the engine's path.
        record: the whole content.
        flavor: `tensorrt` or `rtx`.
        version: of the package that built the engine.
        capabilities: compute capabilities that it was built for, such as "8.9".
        batches: smallest and largest batch of its profile.
        input, output: tensor names.
        image: (channels, height, width) in pixels.
        logits: shape of one image's: (classes,), or of its pixels' (classes, height, width).
        rebuild: the command that makes it again.
    """

    engine: Path
    record: dict[str, Any]
    flavor: str
    version: str
    capabilities: tuple[str, ...]
    batches: tuple[int, int]
    input: str
    output: str
    image: tuple[int, int, int]
    logits: tuple[int, ...]
    rebuild: str

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
    content = {key: value for key, value in record.items() if key != SEAL}
    path = sidecar_path(engine)
    path.write_text(canonical_json({**content, SEAL: _seal(content)}), encoding="utf-8")
    return path


def read_sidecar(engine: Path) -> Sidecar:
    """Read the sidecar of an engine and check that it is whole and unedited; the engine itself is not read.

    Raises:
        ArtifactError: missing, no JSON, of another schema, edited, or without something that loading needs.
    """
    path = sidecar_path(engine)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            "The engine has no sidecar beside it, so nobody can say what it is.",
            where=path,
            hint=f"Copy it from where the engine was built. {AGAIN}",
        ) from None
    except OSError as error:
        raise ArtifactError(f"The engine's sidecar cannot be read: {error.strerror}.", where=path) from error
    except ValueError as error:
        raise ArtifactError(f"The engine's sidecar is no JSON: {error}.", where=path, hint=AGAIN) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SIDECAR_SCHEMA:
        raise ArtifactError(
            f"The engine's sidecar has the schema {schema!r}; {SIDECAR_SCHEMA!r} is needed.", where=path, hint=AGAIN
        )
    content = {key: value for key, value in record.items() if key != SEAL}
    if record.get(SEAL) != _seal(content):
        raise ArtifactError(
            "The engine's sidecar was edited after it was written: it does not have the hash that it carries.",
            where=path,
            hint=f"Restore it. {AGAIN}",
        )
    try:
        channels, height, width = map(int, record["input"]["shape"])
        # Engines of before pixels were classified say no more than the number of classes.
        logits = tuple(map(int, record["output"].get("shape", [record["classes"]])))
        if logits[1:] not in ((), (height, width)) or logits[0] != int(record["classes"]):
            raise ValueError("the shape of its logits")
        _ = (
            record["engine"]["sha256"],
            int(record["engine"]["bytes"]),
            record["onnx"]["file"],
            record["onnx"]["sha256"],
        )
        return Sidecar(
            engine,
            record,
            {name: name for name in MODULES}[record["flavor"]],
            str(record["version"]),
            tuple(map(str, record["compute_capabilities"])),
            (int(record["profile"]["min"]), int(record["profile"]["max"])),
            str(record["input"]["name"]),
            str(record["output"]["name"]),
            (channels, height, width),
            logits,
            str(record["rebuild"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"The engine's sidecar lacks or garbles {error}.", where=path, hint=AGAIN) from error


def check_files(sidecar: Sidecar) -> None:
    """Hold the engine, and the ONNX file if it lies beside it, to the recorded hashes.

    Raises:
        ArtifactError: cut short, another engine, or the ONNX file was edited after the engine was built.
    """
    engine, expected = sidecar.engine, sidecar.record["engine"]
    size = engine.stat().st_size
    if size < expected["bytes"]:
        raise ArtifactError(
            f"The engine is cut short: {size} of {expected['bytes']} bytes.",
            where=engine,
            hint=f"Copy it again. {AGAIN}",
        )
    if (found := sha256_file(engine)) != expected["sha256"]:
        raise ArtifactError(
            f"The engine is not the one that its sidecar describes: its sha256 is {found[:12]}…, "
            f"not {expected['sha256'][:12]}….",
            where=engine,
            hint=f"Copy engine and sidecar together. {AGAIN}",
        )
    onnx = engine.with_name(Path(sidecar.record["onnx"]["file"]).name)
    if onnx.is_file() and sha256_file(onnx) != sidecar.record["onnx"]["sha256"]:
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


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
