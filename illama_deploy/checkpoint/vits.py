"""Checkpoints of timm's vision transformers: what names them, and how their tensors become a network of ours.

The name comes from whoever opens the file, from a hub's configuration, or from what timm's and DeiT's own training
scripts keep beside the weights. Tensors alone do not tell: heads, normalisation and pooling leave no trace in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DeployError, UsageError, parameter
from ..hub_folder import HubFolder
from ..model.timm_vits import (
    Reading,
    UnsupportedError,
    covered_names,
    find_architecture,
    make_on_meta,
    nearest_names,
    read_timm,
    reader_of,
)
from ..model.vit import VitConfig
from ..preprocessing import LARGEST_SIDE, Preprocessing, default_preprocessing
from ..progress import say, track
from .unpickle import Arguments

__all__ = [
    "Named",
    "VitPlan",
    "fitting_names",
    "looks_like_vit",
    "name_of",
    "plan_vit",
    "prepared_as",
    "require_default_geometry",
    "unnamed",
]

Shapes = Mapping[str, tuple[int, ...]]
#: Bytes that positions and tables may take beside the weights.
ROOM = 2**30
#: What `arch` is where timm knew no more than the class.
CLASSES = ("visiontransformer", "visiontransformerdistilled", "eva", "illama", "vit")


@dataclass(frozen=True)
class Named:
    """Who says which architecture it is.

    Attributes:
        architecture: timm's name, as it was written.
        arguments: of its constructor.
        prepared: how images are prepared, keys as in timm's `pretrained_cfg`.
        num_classes: None where nobody says.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VitPlan:
    """What a file's tensors will become.

    Attributes:
        name: timm's, without a tag.
        model: timm's network, values unset.
    """

    config: VitConfig
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    name: str
    model: Any
    reading: Reading
    path: Path

    def finish(self, state: dict[str, Tensor]) -> tuple[VitConfig, dict[str, Tensor], Preprocessing, tuple[str, ...]]:
        """Geometry, state, preprocessing and class names, of float32 tensors with the file's keys.

        Raises:
            CheckpointError: tensors do not fit the architecture; the first misfit is named.
        """
        try:
            with torch.no_grad():
                fitted = reader_of(self.model).convert(state, self.model)
        except Exception as error:  # timm's conversions of other layouts take what they find
            what = f"timm cannot bring them into shape ({type(error).__name__})"
            raise _misfit(what, self.name, self.path) from error
        if self.config.features:
            fitted = {key: value for key, value in fitted.items() if not key.startswith(("head.", "head_dist."))}
        _require_fit({key: tuple(value.shape) for key, value in fitted.items()}, self.model, self.name, self.path)
        made = {key: value.contiguous() for key, value in self.reading.translate(fitted).items()}
        return self.config, made, self.preprocessing, self.classes


def name_of(tree: Any, hub: HubFolder | None, asked: str | None, path: Path) -> Named | None:
    """Who says which architecture a file is, if anybody.

    Args:
        tree: of the file.
        asked: the name that the user gave.

    Raises:
        UsageError: the user gives another name than the file.
    """
    named: Named | None = None
    if hub is not None:
        named = Named(hub.architecture, hub.arguments, hub.prepared, hub.num_classes, hub.classes)
    elif isinstance(tree, dict):
        arch, args = tree.get("arch"), _attributes(tree.get("args"))
        found = next((x for x in (args.get("model"), arch) if isinstance(x, str)), None)
        if found is not None and found.lower() not in CLASSES:
            named = Named(found[:120], prepared=_prepared_by(args))
    if asked is None:
        return named
    plain = find_architecture(asked)
    if named is not None and find_architecture(named.architecture) not in (plain, None):
        raise UsageError(
            f"The checkpoint says that it is {named.architecture!r}, and {asked!r} is asked for.",
            where=path,
            hint=f"Leave {parameter('model')} out.",
        )
    return named if named is not None and find_architecture(named.architecture) == plain else Named(asked)


def _attributes(args: Any) -> Mapping[str, Any]:
    """What a training script kept of its arguments: a table, or a namespace."""
    if isinstance(args, Arguments):
        return args.attributes
    return args if isinstance(args, dict) else {}


def _prepared_by(args: Mapping[str, Any]) -> dict[str, Any]:
    """How images were prepared, by the names that timm's training script has for it."""
    found: dict[str, Any] = {key: args.get(key) for key in ("mean", "std", "interpolation", "crop_pct")}
    size = args.get("img_size") or args.get("input_size")
    if isinstance(size, int):
        found["input_size"] = [3, size, size]
    elif isinstance(size, list | tuple) and len(size) == 3:
        found["input_size"] = list(size)
    return {key: value for key, value in found.items() if value}


def plan_vit(
    named: Named,
    shapes: Shapes,
    weights: int,
    path: Path,
    *,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> VitPlan:
    """Find the architecture, and what it is with these tensors.

    Args:
        shapes: of the file's tensors.
        weights: bytes of them.
        num_classes: 0 leaves the head away; any other is what the file has.
        image_size: to go to; the trained one where not given.

    Raises:
        UsageError: no such architecture, one that is not covered, or a size that does not fit.
        CheckpointError: what is said of it contradicts the tensors.
    """
    name = find_architecture(named.architecture)
    if name is None:
        raise _unknown(named.architecture, path)
    has = _classes_of(shapes)
    if num_classes and num_classes != has:
        raise UsageError(
            f"The checkpoint has {has or 'no'} classes, and {num_classes} are asked for.",
            where=path,
            hint=f"Leave {parameter('num_classes')} out; 0 gives features, without a head.",
        )
    if named.num_classes not in (None, has):
        raise CheckpointError(
            f"It says that it has {named.num_classes} classes, and its tensors have {has or 'no head'}.",
            where=path,
            hint="Give configuration and weights of one network.",
        )
    count = has if num_classes is None else num_classes
    arguments = {key: value for key, value in named.arguments.items() if key not in ("num_classes", "in_chans")}
    arguments |= {"num_classes": count}
    kernel = shapes.get("patch_embed.proj.weight", ())
    channels, patch = (kernel[1], kernel[2]) if len(kernel) == 4 and all(kernel) else (3, 1)
    size = image_size
    if size is not None and (max(size) > LARGEST_SIDE or any(side % patch or side < patch for side in size)):
        raise UsageError(
            f"{parameter('image_size')} {size[0]}×{size[1]} is no multiple of the patch size {patch}, or too large.",
            where=path,
            hint=f"Use multiples of {patch}.",
        )
    if size is None:
        model, reading = _made(name, arguments, path)
        size = _trained_size(named, reading.config, model, shapes, path)
    arguments |= {"img_size": size, "in_chans": channels}
    model, reading = _made(name, arguments, path)
    config = reading.config
    if 4 * config.tokens * config.dim > ROOM + 16 * weights:
        raise CheckpointError(
            f"Images of {size[0]}×{size[1]} px in patches of {config.patch_size} are {config.tokens} tokens.",
            where=path,
            hint=f"Use a smaller {parameter('image_size')}.",
        )
    cfg = {**dict(getattr(model, "pretrained_cfg", None) or {}), **named.prepared}
    preprocessing = prepared_as(cfg, size, config.channels, path)
    classes = () if config.features else named.classes
    return VitPlan(config, preprocessing, classes, name, model, reading, path)


def _made(name: str, arguments: Mapping[str, Any], path: Path) -> tuple[Any, Reading]:
    try:
        model = make_on_meta(name, arguments)
        return model, read_timm(name, model)
    except UnsupportedError as error:
        raise UsageError(
            f"{name} is not covered: {error}.",
            where=path,
            hint="Pre-norm networks of timm's VisionTransformer and Eva are; docs/networks.md lists them.",
        ) from error


def _classes_of(shapes: Shapes) -> int:
    """Rows of the head; 0 where there is none."""
    shape = shapes.get("head.weight", ())
    return shape[0] if len(shape) == 2 else 0


def _trained_size(named: Named, config: VitConfig, model: Any, shapes: Shapes, path: Path) -> tuple[int, int]:
    """The image size that the position embedding belongs to: what is said, else the architecture's, else a square."""
    said = config.image_size
    given = named.prepared.get("input_size")
    if "img_size" not in named.arguments and isinstance(given, list | tuple) and len(given) == 3:
        sides = tuple(given[1:])
        if all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
            said = (sides[0], sides[1])
    positions = shapes.get("pos_embed", ())
    if not config.positions or len(positions) != 3:
        return said
    patch, extra = config.patch_size, 0 if model.no_embed_class else config.others
    count = positions[1] - extra
    if not any(side % patch for side in said) and math.prod(side // patch for side in said) == count:
        return said
    side = math.isqrt(max(count, 0))
    if side * side != count or not side:
        raise CheckpointError(
            f"pos_embed has {count} image positions, which {said[0]}×{said[1]} px in patches of {patch} are not.",
            where=path,
            hint="Save the network with the size that it was trained at (img_size).",
        )
    say(f"{path.name}: its position embedding is of {side * patch}×{side * patch} px, which is taken as trained.")
    return side * patch, side * patch


def prepared_as(said: Mapping[str, Any], size: tuple[int, int], channels: int, path: Path) -> Preprocessing:
    """What a `pretrained_cfg` of timm's says of images, for an input of this size.

    Raises:
        CheckpointError: it cannot be.
    """
    default = default_preprocessing(size, channels)
    mean, std = said.get("mean"), said.get("std")
    if not all(isinstance(x, list | tuple) and len(x) == channels for x in (mean, std)):
        mean, std = default.mean, default.std
    values = {
        "size": list(size),
        "mean": list(mean or ()),
        "std": list(std or ()),
        "crop": said.get("crop_pct") or default.crop,
        "crop_mode": said.get("crop_mode") or default.crop_mode,
        "interpolation": said.get("interpolation") or default.interpolation,
    }
    try:
        return Preprocessing.from_dict(values)
    except DeployError as error:
        raise CheckpointError(
            f"What it says of its images cannot be used: {error.what.rstrip('.')}.",
            where=path,
            hint="Mend its configuration (pretrained_cfg).",
        ) from error


def looks_like_vit(shapes: Shapes) -> bool:
    """Whether tensors are of a vision transformer that is no iLLaMA, which has three layers in each FFN."""
    norms = "blocks.0.norm1.weight" in shapes and "patch_embed.proj.weight" in shapes
    return norms and "blocks.0.mlp.fc3.weight" not in shapes


def unnamed(shapes: Shapes, path: Path) -> CheckpointError:
    """Nobody says which architecture it is; which ones it may be."""
    fitting = fitting_names(shapes)
    if not fitting:
        return CheckpointError(
            "It is a vision transformer, and no architecture that is covered has tensors of these shapes.",
            where=path,
            hint="docs/networks.md lists what is covered.",
        )
    example = parameter(model=fitting[0])
    return CheckpointError(
        f"It does not say which architecture it is. Its tensors fit {', '.join(fitting)}; heads and pooling are not in "
        "them.",
        where=path,
        hint=f"Name the one that it was trained as, such as {example}.",
    )


def require_default_geometry(named: Named, heads: int | None, patch_size: int | None, path: Path) -> None:
    """Refuse what only an iLLaMA's checkpoint leaves open.

    Raises:
        UsageError: the architecture says it already, and otherwise.
    """
    name = find_architecture(named.architecture)
    if name is None:
        return  # it is refused by whoever looks for it
    _, reading = _made(name, named.arguments, path)
    for key, asked, has in (
        ("heads", heads, reading.config.heads),
        ("patch_size", patch_size, reading.config.patch_size),
    ):
        if asked not in (None, has):
            raise UsageError(
                f"{name} has {key.replace('_', ' ')} {has}, and {asked} is asked for.",
                where=path,
                hint=f"Leave {parameter(key)} out.",
            )


def _require_fit(shapes: Shapes, model: Any, name: str, path: Path) -> None:
    """Hold tensors to the architecture.

    Raises:
        CheckpointError: the first misfit, with both shapes.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key, shape in expected.items():
        if key not in shapes:
            raise _misfit(f"{key} {list(shape)} is missing", name, path)
        if shapes[key] != shape:
            raise _misfit(f"{key} is {list(shapes[key])[:8]}, and {list(shape)} is needed", name, path)
    if unexpected := [key for key in shapes if key not in expected]:
        raise _misfit(f"{unexpected[0][:120]} {list(shapes[unexpected[0]])[:8]} belongs to another", name, path)


def _misfit(problem: str, name: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"Its tensors do not fit the architecture {name}: {problem}.",
        where=path,
        hint=f"Name the architecture that it is ({parameter('model')}).",
    )


def _unknown(name: str, path: Path) -> UsageError:
    near = nearest_names(name)
    return UsageError(
        f"There is no architecture {name[:80]!r} that is covered.",
        where=path,
        hint=f"Did you mean {' or '.join(near)}?" if near else "Names are timm's, such as vit_small_patch16_224.",
    )


def fitting_names(shapes: Shapes, most: int = 8) -> list[str]:
    """Architectures that tensors of these shapes fit, whatever their position embedding's size."""
    found: list[str] = []
    for name in track(covered_names(), "Looking for architectures that fit", len(covered_names())):
        try:
            model = make_on_meta(name, {"num_classes": _classes_of(shapes)})
            read_timm(name, model)
        except UnsupportedError:
            continue
        expected = {key: tuple(value.shape) for key, value in model.state_dict().items() if key != "pos_embed"}
        if expected == {key: shape for key, shape in shapes.items() if key != "pos_embed"}:
            found.append(name)
    return found[:most]
