"""Read a trained checkpoint, whatever wrapped it, without running code from it."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError, UsageError, parameter
from ..hashing import sha256_file
from ..hub_folder import HubFolder, is_hub_folder, read_hub_folder
from ..model.config import IllamaConfig
from ..model.families import build_network, geometry_from
from ..model.network import Network, NetworkConfig
from ..options.groups import as_size
from ..preprocessing import Preprocessing, default_preprocessing
from ..progress import say
from .geometry import (
    PATCHES,
    check_shapes,
    infer_config,
    interpolate_positions,
    require_room,
    require_shapes,
    resample_patches,
)
from .metadata import EMBEDDED, EMBEDDED_FILE, Metadata
from .safetensors_file import read_safetensors
from .seal import SEAL_KEY, seal_tensors
from .stored import FLOATS, Content, DamagedError, RefusedError, StoredTensor, is_finite
from .torch_file import ZIP, read_legacy, read_zip
from .vits import looks_like_vit, name_of, plan_vit, prepared_as, require_default_geometry, unnamed
from .weight_sets import WeightSet, choose_weights

__all__ = ["Checkpoint", "find_checkpoint", "read_checkpoint"]

#: How timm's names of iLLaMA's own geometries begin.
OWN = "illama"

#: Geometry, state, preprocessing and class names.
Finished = tuple[NetworkConfig, dict[str, Tensor], Preprocessing, tuple[str, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A trained float network.

    Attributes:
        state: official keys to float32 tensors.
        classes: class names in label order, or empty where unknown.
        data: `digits` where it was trained on the embedded data, else None: no other data is opened because a file
            says so.
        trained_on: the data spec that the file names, as text to show, or None.
        weights: name of the set of weights that was taken, or empty where the file is one.
        size: bytes of the file, or of all files of a folder.
    """

    path: Path
    sha256: str
    config: NetworkConfig
    state: Mapping[str, Tensor]
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()
    trained_on: str | None = None
    weights: str = ""
    size: int = 0

    @property
    def data(self) -> str | None:
        """See above."""
        return self.trained_on if self.trained_on == EMBEDDED else None

    def illama(self, what: str) -> IllamaConfig:
        """The geometry, for what only iLLaMAs do.

        Raises:
            UsageError: it is another network; `what` begins the sentence.
        """
        if not isinstance(self.config, IllamaConfig):
            raise UsageError(
                f"{what} takes an iLLaMA, and this is another network.", where=self.path, hint="Give an iLLaMA."
            )
        return self.config

    def build(self) -> Network:
        """Make the network, in evaluation mode, with the preprocessing as timm's `pretrained_cfg`."""
        model = build_network(self.config)
        model.load_state_dict(dict(self.state))
        prepared = self.preprocessing
        model.pretrained_cfg = model.default_cfg = {
            "num_classes": self.config.classes,
            "input_size": (self.config.channels, *prepared.size),
            "mean": prepared.mean,
            "std": prepared.std,
            "crop_pct": prepared.crop,
            "crop_mode": prepared.crop_mode,
            "interpolation": prepared.interpolation,
            "first_conv": "patch_embed.proj",
            "classifier": "head.classifier" if self.config.head_width else "head",
        }
        return model.eval()


def find_checkpoint(name: str | Path) -> Path:
    """Resolve a path, of a file or of a hub's folder, or the name of the embedded default.

    Raises:
        CheckpointError: no such file, or no regular one.
    """
    path = Path(name)
    if str(name) == EMBEDDED and not os.path.lexists(path):
        return EMBEDDED_FILE
    try:
        if is_hub_folder(path):
            return path
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait, and a device never ends
            kind = "a directory" if path.is_dir() else "no regular file"
            raise CheckpointError(
                f"It is {kind}.",
                where=path,
                hint="Give a .pth or .safetensors file, or a folder with config.json and weights.",
            )
        with path.open("rb"):
            return path
    except FileNotFoundError:
        raise CheckpointError(
            "There is no such file.", where=path, hint=f"Check the path; {EMBEDDED!r} names the embedded default."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Cannot read it: {getattr(error, 'strerror', None) or error}.",
            where=path,
            hint="Give a file that you may read.",
        ) from error


def read_checkpoint(
    name: str | Path,
    *,
    heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    ema: bool = False,
    model: str | None = None,
    num_classes: int | None = None,
) -> Checkpoint:
    """Read what `torch.save` or safetensors wrote, or a hub's folder of `config.json` and weights.

    An iLLaMA's geometry comes from the tensors; other networks are timm's, and their name comes from the file or from
    `model`. Which set of weights is taken where a file holds several is the rule of `weight_sets`; what was chosen and
    what was left out is said.

    Args:
        name: path, or `digits` for the embedded default.
        heads: number of heads of an iLLaMA (dim / 64, or what the file's metadata says, where not given).
        image_size: another (height, width), or side, than trained: interpolates the position embedding. The trained
            size is what the file's metadata says, else the square of as many positions; where they are no square,
            `image_size` says the trained size.
        patch_size: another than trained, of an iLLaMA: resamples the patch embedding, too (see `resample_patches`).
        ema: take the averaged weights.
        model: timm's name of the architecture, such as `vit_small_patch16_224`, where the file does not say it.
        num_classes: 0 leaves the classifier away, for features alone; another number is what the file has.

    Raises:
        CheckpointError: not readable, would run code, no network that is known, damaged, or of several sets of weights.
        UsageError: a size, or a name, that does not fit.
    """
    path = find_checkpoint(name)
    asked = _Asked(heads, as_size(image_size), patch_size, model, num_classes)
    hub = read_hub_folder(path) if path.is_dir() else None
    files = (path,) if hub is None else hub.weights
    before = [_state_of(file) for file in files]
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(file.open("rb")) for file in files]
            contents = [_open(*each) for each in zip(opened, [size for _, _, size, _ in before], files, strict=True)]
            content = contents[0] if len(contents) == 1 else _merged(contents, hub, path)
            chosen = choose_weights(content.tree, path, ema=ema)
            about = Metadata.read({} if content.metadata is None else content.metadata, path)
            plan = _plan(content.tree, chosen, about, hub, asked, path)
            _require_plain(chosen.tensors, path)
            state = _read(chosen.tensors, content, path)
            sha256 = sha256_file(path) if hub is None else hub.sha256()
    except RefusedError as error:
        raise _runs_code(str(error), path) from error
    except (DamagedError, OSError) as error:
        raise _unreadable(str(error), path) from error
    if [_state_of(file) for file in files] != before:
        raise CheckpointError("It was changed while it was read.", where=path, hint="Try again.")
    _tell(chosen, path, ema)
    config, state, preprocessing, classes = plan.finish(state)
    return Checkpoint(
        path=path,
        sha256=sha256,
        config=config,
        state=state,
        preprocessing=preprocessing,
        classes=classes,
        trained_on=about.data,
        weights=chosen.name,
        size=sum(size for _, _, size, _ in before),
    )


@dataclass(frozen=True)
class _Asked:
    """What `read_checkpoint` is asked for."""

    heads: int | None
    image_size: tuple[int, int] | None
    patch_size: int | None
    model: str | None
    num_classes: int | None


class _Plan(Protocol):
    """What a file's tensors will become."""

    def finish(self, state: dict[str, Tensor]) -> Finished:
        """Of float32 tensors with the file's keys."""


@dataclass(frozen=True)
class _IllamaPlan:
    """An iLLaMA, at the size that it was trained at.

    Attributes:
        hub: the folder that it lies in, if any.
        weights: bytes of its tensors.
    """

    config: IllamaConfig
    about: Metadata
    hub: HubFolder | None
    asked: _Asked
    weights: int
    path: Path

    def finish(self, state: dict[str, Tensor]) -> Finished:
        """The sizes that are asked for."""
        config, about = self.config, self.about
        default = default_preprocessing(config.image_size, config.channels)
        preprocessing, classes = about.preprocessing or default, about.classes
        if self.hub is not None:
            preprocessing = prepared_as(self.hub.prepared, config.image_size, config.channels, self.path)
            classes = self.hub.classes
        size, patch = self.asked.image_size or config.image_size, self.asked.patch_size or config.patch_size
        if (size, patch) != (config.image_size, config.patch_size):
            config, state = _resize(config, state, size, patch, self.weights)
            # The default's crop is one of its size: from 384 px up, there is none.
            crop = default_preprocessing(size, config.channels).crop if preprocessing == default else preprocessing.crop
            preprocessing = replace(preprocessing, size=size, crop=crop)
        return config, state, preprocessing, classes


def _plan(tree: Any, chosen: WeightSet, about: Metadata, hub: HubFolder | None, asked: _Asked, path: Path) -> _Plan:
    """What the tensors are: an iLLaMA, or the network of timm's that somebody names."""
    shapes = {key: tensor.shape for key, tensor in chosen.tensors.items()}
    weights = sum(tensor.size for tensor in chosen.tensors.values())
    if about.geometry:
        return _own_plan(shapes, about, asked, path)
    named = name_of(tree, hub, asked.model, path)
    if hub is None and asked.model is None and not looks_like_vit(shapes):
        named = None  # a training script may call an iLLaMA as it likes
    if named is not None and not named.architecture.removeprefix("timm:").startswith(OWN):
        if asked.heads is not None or asked.patch_size is not None:
            require_default_geometry(named, asked.heads, asked.patch_size, path)
        sizes: dict[str, Any] = {"num_classes": asked.num_classes, "image_size": asked.image_size}
        return plan_vit(named, shapes, weights, path, **sizes)
    if named is None and about == Metadata() and looks_like_vit(shapes):
        raise unnamed(shapes, path)
    config = _infer(shapes, about, asked.heads, asked.image_size, path)
    if asked.num_classes not in (None, config.classes):
        raise UsageError(
            f"The checkpoint has {config.classes} classes, and {asked.num_classes} are asked for.",
            where=path,
            hint=f"Leave {parameter('num_classes')} out.",
        )
    check_shapes(shapes, config, where=path)
    about.require_fit(config, path)
    require_room(config, weights, where=path, hint="Check that the file is an iLLaMA.")
    return _IllamaPlan(config, about, hub, asked, weights, path)


@dataclass(frozen=True)
class _OwnPlan:
    """A network that our own training wrote down with its geometry."""

    config: NetworkConfig
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    def finish(self, state: dict[str, Tensor]) -> Finished:
        """As it is."""
        return self.config, state, self.preprocessing, self.classes


def _own_plan(shapes: Mapping[str, tuple[int, ...]], about: Metadata, asked: _Asked, path: Path) -> _OwnPlan:
    try:
        config = geometry_from(about.geometry)
        if config.depth > len(shapes):
            raise ValueError(f"its {config.depth} blocks have fewer tensors")
    except ValueError as error:
        raise CheckpointError(
            f"Its geometry cannot be used: {error}.", where=path, hint="Copy it again from where it was made."
        ) from error
    given = {"heads": asked.heads, "image_size": asked.image_size, "patch_size": asked.patch_size}
    given["num_classes"] = asked.num_classes
    own = {
        **{key: getattr(config, key) for key in ("heads", "image_size", "patch_size")},
        "num_classes": config.classes,
    }
    if wrong := [key for key, value in given.items() if value not in (None, own[key])]:
        raise UsageError(
            f"The checkpoint has {wrong[0]} {own[wrong[0]]}, and {given[wrong[0]]} is asked for.",
            where=path,
            hint=f"Leave {parameter(wrong[0])} out.",
        )
    with torch.device("meta"):
        expected = {key: tuple(tensor.shape) for key, tensor in build_network(config).state_dict().items()}
    require_shapes(shapes, expected, where=path)
    about.require_fit(config, path)
    default = default_preprocessing(config.image_size, config.channels)
    return _OwnPlan(config, about.preprocessing or default, about.classes)


def _merged(contents: Sequence[Content], hub: HubFolder | None, path: Path) -> Content:
    """The tensors of several files, as one file's.

    Raises:
        CheckpointError: the index names others.
    """
    tree: dict[str, Any] = {}
    for number, content in enumerate(contents):
        for key, tensor in content.tree.items() if isinstance(content.tree, dict) else ():
            if isinstance(tensor, StoredTensor):
                tree[key] = replace(tensor, place=(number, *tensor.place))
    if hub is not None and hub.tensors is not None and (missing := sorted(hub.tensors - tree.keys())):
        raise CheckpointError(
            f"{len(missing)} tensors that the index names are in none of its files: {', '.join(missing[:4])}.",
            where=path,
            hint="Download the whole folder again.",
        )
    return Content(tree)


def _state_of(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open(file: BinaryIO, size: int, path: Path) -> Content:
    """Open what the first bytes say it is, whatever its name."""
    start = file.read(9)
    file.seek(0)
    if start.startswith(ZIP):
        return read_zip(file, size)
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(file, size, path)
    return read_legacy(file, size)


def _infer(
    shapes: Mapping[str, tuple[int, ...]],
    about: Metadata,
    heads: int | None,
    size: tuple[int, int] | None,
    path: Path,
) -> IllamaConfig:
    if None not in (heads, about.heads) and heads != about.heads:
        raise UsageError(
            f"The checkpoint says that it has {about.heads} heads, and {heads} are asked for.",
            where=path,
            hint=f"Leave {parameter('heads')} out.",
        )
    positions = shapes.get("pos_embed", ())
    oblong = len(positions) == 3 and not _is_square(positions[1] - 1)
    try:
        return infer_config(
            shapes,
            heads=about.heads if heads is None else heads,
            # Where the grid is a square, --image-size is where to go; where it is not, it alone can say what it was.
            trained_size=about.image_size or (size if oblong else None),
            variation=about.variation,
            where=path,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"Its tensors fit no iLLaMA: {error}.", where=path, hint="Check that the file is an iLLaMA."
        ) from error


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _require_plain(tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Refuse what is no dense tensor of floating-point numbers, and tensors that share memory.

    Raises:
        CheckpointError: naming them.
    """
    if odd := [f"{key} ({tensor.odd})" for key, tensor in tensors.items() if tensor.odd]:
        raise CheckpointError(
            f"Not all of its tensors are plain: {', '.join(odd[:4])}" + (" …" if len(odd) > 4 else "."),
            where=path,
            hint="Save plain, dense tensors of floating-point numbers.",
        )
    counters = ("num_batches_tracked",)
    wrong = [
        f"{key} ({str(tensor.dtype).removeprefix('torch.')})"
        for key, tensor in tensors.items()
        if tensor.dtype not in FLOATS and not (key.endswith(counters) and tensor.dtype is torch.int64)
    ]
    if wrong:
        raise CheckpointError(
            f"Weights are floating-point numbers of 16 to 64 bits; here are {', '.join(wrong[:4])}"
            + (" …" if len(wrong) > 4 else "."),
            where=path,
            hint="Give the float checkpoint, before any quantization.",
        )
    places: dict[tuple[object, ...], str] = {}
    for key, tensor in tensors.items():
        if tensor.size and (other := places.setdefault(tensor.place, key)) != key:
            raise CheckpointError(
                f"{key} and {other} are one tensor in the file.",
                where=path,
                hint="Save each tensor by itself (tensor.clone()).",
            )


def _read(tensors: Mapping[str, StoredTensor], content: Content, path: Path) -> dict[str, Tensor]:
    """Read the tensors, each in float32 and in memory of its own, and hold them to the file's seal.

    Raises:
        CheckpointError: a value is NaN or infinite, or the seal does not hold.
    """
    state: dict[str, Tensor] = {}
    bad: list[str] = []

    def take(key: str) -> Tensor:
        raw = tensors[key].fetch()
        state[key] = raw.to(torch.float32)
        if not is_finite(state[key]):
            bad.append(key)
        return raw

    if not content.sealed:
        for key in tensors:
            take(key)
    elif seal_tensors(content.metadata, tensors, take) != content.metadata.get(SEAL_KEY):
        raise CheckpointError(
            "It was altered after it was written (its tensors or its metadata do not match its seal).",
            where=path,
            hint="Copy it again from where it was made. One of an earlier version has no seal: train or save it again.",
        )
    if bad:
        raise CheckpointError(
            f"NaN or infinite values in {', '.join(bad[:8])}" + (f" and {len(bad) - 8} more." if len(bad) > 8 else "."),
            where=path,
            hint="Use an earlier checkpoint of the same training.",
        )
    return {key: state[key] for key in tensors}


def _tell(chosen: WeightSet, path: Path, ema: bool) -> None:
    """Say what was chosen and what was left out."""
    if chosen.others:
        kind = "averaged weights" if chosen.averaged else "weights"
        say(f"{path.name}: the {kind} are {chosen.title}; left aside: {', '.join(chosen.others[:6])}.")
    elif chosen.averaged and not ema:
        say(f"{path.name}: the only weights in it are averaged ones.")
    if names := [name for name in chosen.left_out if name != "n_averaged"]:
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        say(f"{path.name}: not of the network, and left out: {', '.join(names[:6])}{more}.")


def _resize(
    config: IllamaConfig, state: dict[str, Tensor], image_size: tuple[int, int], patch_size: int, weights: int
) -> tuple[IllamaConfig, dict[str, Tensor]]:
    try:
        resized = replace(config, image_size=image_size, patch_size=patch_size)
    except ValueError as error:
        multiple = patch_size * (2 if config.head_width else 1)
        raise UsageError(
            f"{parameter('image_size')} does not fit: {error}.", hint=f"Use multiples of {multiple}."
        ) from error
    require_room(resized, weights, hint=f"Use a smaller {parameter('image_size')}.")
    positions = interpolate_positions(state["pos_embed"], config.grid, resized.grid, config.class_index)
    patches = resample_patches(state[PATCHES], patch_size)
    return resized, {**state, "pos_embed": positions, PATCHES: patches}


def _runs_code(names: str, path: Path) -> CheckpointError:
    hint = "Save plain tensors: torch.save({'model': model.state_dict()}, path), or use safetensors."
    if names.startswith("torch.distributed"):
        hint = "It is one process's part of a sharded checkpoint: save the whole state dict (FULL_STATE_DICT)."
    return CheckpointError(
        f"The file wants to run code when loaded, which is never done here: it names {names[:120]}.",
        where=path,
        hint=hint,
    )


def _unreadable(found: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"Not a readable checkpoint: {found.rstrip('.')[:300]}.",
        where=path,
        hint="It may be cut short or of another kind; copy it again, or give a .pth or .safetensors file.",
    )
