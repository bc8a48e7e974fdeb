"""Read a trained checkpoint, whatever wrapped it, without running code from it."""

from __future__ import annotations

import argparse
import json
import operator
import os
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, UsageError
from ..hashing import sha256_file
from ..model.illama import Illama, IllamaConfig
from ..preprocessing import Preprocessing, default_preprocessing
from .geometry import PATCHES, check_state, infer_config, interpolate_positions, resample_patches

__all__ = ["EMBEDDED", "METADATA_KEY", "Checkpoint", "find_checkpoint", "read_checkpoint"]

#: The embedded default's name, accepted wherever a checkpoint's path is.
EMBEDDED = "digits"
#: Where our own metadata stands: a key of the `.pth` dictionary, or of the safetensors header (as JSON).
METADATA_KEY = "illama_deploy"

_WRAPPERS = ("model", "state_dict")
_EMA_WRAPPERS = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "ema_model.")


@dataclass(frozen=True)
class Checkpoint:
    """A trained float network.

    Attributes:
        state: official keys to float32 tensors.
        classes: class names in label order, or empty where unknown.
        data: data spec that it was trained for, or None.
    """

    path: Path
    sha256: str
    config: IllamaConfig
    state: Mapping[str, Tensor]
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()
    data: str | None = None

    def build(self) -> Illama:
        """Make the network, in evaluation mode."""
        model = Illama(self.config)
        model.load_state_dict(dict(self.state))
        return model.eval()


def find_checkpoint(name: str | Path) -> Path:
    """Resolve a path, or the name of the embedded default.

    Raises:
        CheckpointError: no such file.
    """
    path = Path(name)
    if str(name) == EMBEDDED and not os.path.lexists(path):
        return Path(__file__).parents[1] / "assets" / f"{EMBEDDED}.safetensors"
    try:
        with path.open("rb"):
            return path
    except FileNotFoundError:
        raise CheckpointError(
            "There is no such file.", where=path, hint=f"Check the path; {EMBEDDED!r} names the embedded default."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"Cannot read it: {error.strerror}.", where=path, hint="Give a file that you may read."
        ) from error


def read_checkpoint(
    name: str | Path,
    *,
    heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    ema: bool = False,
) -> Checkpoint:
    """Read `.pth` or `.safetensors`; the geometry comes from the tensors.

    Args:
        name: path, or `digits` for the embedded default.
        heads: number of heads (dim / 64, or what the file's metadata says, where not given).
        image_size: another (height, width) than trained: interpolates the position embedding.
        patch_size: another than trained: resamples the patch embedding, too (see `resample_patches`).
        ema: take the averaged weights where the file holds both.

    Raises:
        CheckpointError: not readable, would run code, not an iLLaMA, damaged.
    """
    path = find_checkpoint(name)
    raw, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, ema)
    state = {_strip(key): tensor.detach().to(torch.float32) for key, tensor in raw.items()}
    about = _Metadata.read(metadata, path)
    try:
        config = infer_config(
            state,
            heads=about.heads if heads is None else heads,
            image_size=about.image_size or image_size,
            variation=about.variation,
            where=path,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"Its tensors fit no iLLaMA: {error}.", where=path, hint="Check that the file is an iLLaMA."
        ) from error
    check_state(state, config, where=path)
    preprocessing = about.preprocessing or default_preprocessing(config.image_size, config.channels)
    size, patch = image_size or config.image_size, patch_size or config.patch_size
    if (size, patch) != (config.image_size, config.patch_size):
        config, state = _resize(config, state, size, patch)
        preprocessing = replace(preprocessing, size=size)
    return Checkpoint(
        path=path,
        sha256=sha256_file(path),
        config=config,
        state=state,
        preprocessing=preprocessing,
        classes=about.classes,
        data=about.data,
    )


@dataclass(frozen=True)
class _Metadata:
    """What our own files say beside the tensors; every field may be absent."""

    heads: int | None = None
    image_size: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    data: str | None = None
    variation: Mapping[str, str] | None = None

    @classmethod
    def read(cls, values: Any, path: Path) -> _Metadata:
        """Check types as they come in; a file may hold anything.

        Raises:
            CheckpointError: a field of another type.
        """
        try:
            size, classes = values.get("image_size"), values.get("classes", ())
            about = cls(
                heads=values.get("heads"),
                image_size=None if size is None else (operator.index(size[0]), operator.index(size[1])),
                preprocessing=Preprocessing.from_dict(values["preprocessing"]) if "preprocessing" in values else None,
                classes=tuple(classes),
                data=values.get("data"),
                variation=dict(values.get("variation") or {}),
            )
            if isinstance(classes, str):
                raise TypeError("the classes are one text")
            for value, kind in ((about.heads, int), (about.data, str), *((name, str) for name in about.classes)):
                if value is not None and not isinstance(value, kind):
                    raise TypeError(f"{value!r} is no {kind.__name__}")
        except (UsageError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            problem = error.what if isinstance(error, UsageError) else str(error)
            raise CheckpointError(
                f"Its metadata ({METADATA_KEY}) cannot be used: {problem.rstrip('.')}.",
                where=path,
                hint="Save it again with illama_deploy, or as a plain state dict.",
            ) from error
        return about


def _resize(
    config: IllamaConfig, state: dict[str, Tensor], image_size: tuple[int, int], patch_size: int
) -> tuple[IllamaConfig, dict[str, Tensor]]:
    config.require_illama()  # where its class token is first, the position embedding would be cut elsewhere
    try:
        resized = replace(config, image_size=image_size, patch_size=patch_size)
    except ValueError as error:
        multiple = patch_size * (2 if config.head_width else 1)
        raise UsageError(f"--image-size does not fit: {error}.", hint=f"Use multiples of {multiple}.") from error
    positions = interpolate_positions(state["pos_embed"], config.grid, resized.grid)
    patches = resample_patches(state[PATCHES], patch_size)
    return resized, {**state, "pos_embed": positions, PATCHES: patches}


def _strip(key: str) -> str:
    """Drop the prefixes that wrappers (DDP, torch.compile, EMA) leave before official keys."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                key, stripped = key[len(prefix) :], True
    return key


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"Not a readable safetensors file: {error}.",
            where=path,
            hint="It may be cut short; copy it again.",
        ) from error


def _read_pickle(path: Path, ema: bool) -> tuple[dict[str, Tensor], Any]:
    try:
        # The released training code saves its command-line arguments; a Namespace is a plain container.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Unsupported global" in text or "Unsupported class" in text or "GLOBAL" in text or _is_plain_pickle(path):
            raise CheckpointError(
                "The file wants to run code when loaded, which is never done here.",
                where=path,
                hint="Save plain tensors: torch.save({'model': model.state_dict()}, path), or use safetensors.",
            ) from error
        raise _unreadable(path) from error
    except Exception as error:  # a damaged file can raise nearly anything from inside the reader
        raise _unreadable(path) from error
    return _unwrap(loaded, path, ema)


def _is_plain_pickle(path: Path) -> bool:
    """Whether the file is a pickle that names things to import or call; its opcodes are read, never run."""
    try:
        with path.open("rb") as file:
            return any(op.name in ("GLOBAL", "STACK_GLOBAL", "INST", "REDUCE") for op, _, _ in pickletools.genops(file))
    except ValueError:
        return False


def _unreadable(path: Path) -> CheckpointError:
    return CheckpointError(
        "Not a readable PyTorch checkpoint.",
        where=path,
        hint="It may be cut short or of another kind; copy it again, or give a .pth or .safetensors file.",
    )


def _unwrap(loaded: Any, path: Path, ema: bool) -> tuple[dict[str, Tensor], Any]:
    """Find the state dict: bare, under `model`, under an EMA key, with or without other entries beside it."""
    metadata = loaded.get(METADATA_KEY, {}) if isinstance(loaded, Mapping) else {}
    order = _EMA_WRAPPERS + _WRAPPERS if ema else _WRAPPERS + _EMA_WRAPPERS
    state = loaded
    if isinstance(loaded, Mapping):
        found = [key for key in order if isinstance(loaded.get(key), Mapping)]
        if ema and not any(key in _EMA_WRAPPERS for key in found):
            raise CheckpointError("It holds no averaged (EMA) weights.", where=path, hint="Leave --ema out.")
        if found:
            state = loaded[found[0]]
            # Some EMA helpers nest once more.
            state = next((state[key] for key in order if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"It holds {type(loaded).__name__}, not a dictionary of tensors.",
            where=path,
            hint="Save torch.save({'model': model.state_dict()}, path).",
        )
    if other := [str(k) for k, v in state.items() if not (isinstance(v, Tensor) and isinstance(k, str))]:
        raise CheckpointError(
            f"Not all of its entries are tensors: {', '.join(other[:5])}.",
            where=path,
            hint="Give a state dict, bare or under the key 'model'.",
        )
    return dict(state), metadata
