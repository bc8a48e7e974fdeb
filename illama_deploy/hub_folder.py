"""A folder as hubs hold networks: `config.json`, which says everything, and weights in one file or in several.

Source: timm's `save_for_hf`, and huggingface_hub's index of sharded files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .hashing import sha256_files

__all__ = ["CONFIG", "HubFolder", "is_hub_folder", "read_hub_folder"]

CONFIG = "config.json"
#: Weights in one file, the first that is there.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: Which of several files holds which tensor.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
#: What an index may call a file: it lies in the folder itself.
SHARD = re.compile(r"[\w][\w.-]{0,120}\.(?:safetensors|bin)")
#: Bytes of a table, at most; and files that weights may be in.
LARGEST, MOST = 16 * 2**20, 1_000
#: Keys of a configuration that name code.
CODE = ("auto_map", "custom_pipelines", "trust_remote_code", "custom_load")


@dataclass(frozen=True)
class HubFolder:
    """What such a folder says.

    Attributes:
        architecture: timm's name of the network, tag and all.
        weights: files that hold the tensors.
        tensors: names of all tensors, where an index gives them.
        num_classes: None where it does not say.
        prepared: `pretrained_cfg`: how images are prepared, as anything.
        arguments: of the network's constructor, as anything.
        classes: names in label order, or none.
    """

    path: Path
    architecture: str
    weights: tuple[Path, ...]
    tensors: frozenset[str] | None = None
    num_classes: int | None = None
    prepared: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Of everything that was read: the configuration and the weights."""
        return sha256_files((self.path / CONFIG, *self.weights))


def is_hub_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a configuration of a hub's, and no artifact of ours."""
    path = Path(path)
    return path.is_dir() and (path / CONFIG).is_file() and not (path / "manifest.json").exists()


def read_hub_folder(path: Path) -> HubFolder:
    """Read the configuration, and find the weights.

    Raises:
        CheckpointError: not readable, of another library, names code, or weights are missing.
    """
    config = _table(path / CONFIG)
    if code := [key for key in CODE if config.get(key)]:
        raise CheckpointError(
            f"Its {CONFIG} names code to run ({code[0]}), which is never done here.",
            where=path,
            hint="Save the network with timm's own save_for_hf, or give its weights alone with its timm name.",
        )
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise _of_another_library(config, path)
    weights, tensors = _weights(path)
    prepared, arguments = (_inner(config, key, path) for key in ("pretrained_cfg", "model_args"))
    if isinstance(config.get("global_pool"), str):
        arguments = {"global_pool": config["global_pool"], **arguments}
    count = config.get("num_classes", prepared.get("num_classes"))
    if count is not None and (type(count) is not int or not 0 <= count < 2**24):
        raise _unusable(f"num_classes is {str(count)[:40]}", path)
    names = config.get("label_names", prepared.get("label_names"))
    classes = tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
    if classes and len(classes) != count:
        raise _unusable(f"it names {len(classes)} classes, and the network has {count}", path)
    return HubFolder(path, architecture, weights, tensors, count, prepared, arguments, classes)


def _inner(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise _unusable(f"{key} is no table", path)
    return found


def _table(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
        found = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise _unusable("it is nested too deeply", path.parent, path.name) from None
    except OSError as error:
        raise _unusable(str(error.strerror or error), path.parent, path.name) from error
    except ValueError as error:
        raise _unusable(str(error).rstrip(".")[:200], path.parent, path.name) from error
    if not isinstance(found, dict):
        raise _unusable("it is no table", path.parent, path.name)
    return found


def _weights(path: Path) -> tuple[tuple[Path, ...], frozenset[str] | None]:
    """Files that hold the tensors, and the names that an index gives."""
    for name in WEIGHTS:
        if (path / name).is_file():
            return (path / name,), None
    for name in INDEXES:
        if not (path / name).is_file():
            continue
        table = _table(path / name).get("weight_map")
        if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
            raise _unusable("it does not say which file holds which tensor", path, name)
        files = sorted(set(table.values()))
        if strange := [file for file in files if not SHARD.fullmatch(file)]:
            raise _unusable(f"{strange[0][:80]!r} is no name of a file beside it", path, name)
        if len(files) > MOST:
            raise _unusable(f"it names {len(files)} files", path, name)
        if missing := [file for file in files if not (path / file).is_file()]:
            raise CheckpointError(
                f"{len(missing)} of the {len(files)} files of its weights are missing: {', '.join(missing[:4])}.",
                where=path,
                hint="Download the whole folder again.",
            )
        return tuple(path / file for file in files), frozenset(table)
    raise CheckpointError(
        f"The folder has a {CONFIG} and no weights ({' or '.join(WEIGHTS)}).",
        where=path,
        hint="Download the whole folder again.",
    )


def _of_another_library(config: Mapping[str, Any], path: Path) -> CheckpointError:
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and isinstance(classes[0], str):
        what = f"Its {CONFIG} describes {classes[0][:60]} of another library"
    elif isinstance(config.get("model_type"), str):
        what = f"Its {CONFIG} describes the model type {config['model_type'][:60]!r} of another library"
    else:
        what = f"Its {CONFIG} does not say which architecture it is"
    return CheckpointError(
        f"{what}.",
        where=path,
        hint="Folders that timm wrote (save_for_hf) are read; their configuration names timm's architecture.",
    )


def _unusable(problem: str, path: Path, name: str = CONFIG) -> CheckpointError:
    return CheckpointError(
        f"Its {name} cannot be used: {problem}.", where=path, hint="Download the folder again, or save it again."
    )
