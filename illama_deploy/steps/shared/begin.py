"""The network that training begins with: its geometry, and its first values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...checkpoint import Checkpoint, select_weights
from ...errors import DataError, UsageError, parameter
from ...model.config import IllamaConfig
from ...model.families import build_network
from ...model.network import Network, NetworkConfig
from ...model.timm_vits import (
    UnsupportedError,
    find_architecture,
    initial_state,
    make_on_meta,
    nearest_names,
    read_timm,
)
from ...model.vit import VitConfig
from ...training import TrainRecipe
from ...training.recipe import ARGUMENTS

__all__ = ["begin", "begin_config", "with_architecture"]


def with_architecture(recipe: TrainRecipe, name: str) -> TrainRecipe:
    """The recipe, for a network of timm's of that name; of its [model], what such a network takes."""
    kept = {key: value for key, value in dict(recipe.model).items() if key in ("image_size", "patch_size", "channels")}
    return recipe.override(model=tuple({**kept, "architecture": name}.items()))


def begin_config(
    recipe: TrainRecipe, start: Checkpoint | None, size: tuple[int, int] | None, classes: int, *, new_head: bool
) -> NetworkConfig:
    """The network's geometry: the recipe's, or the starting checkpoint's.

    Raises:
        UsageError: there is none, or both differ.
        DataError: the checkpoint has other classes.
    """
    table = {**dict(recipe.model), **({"image_size": size} if size else {})}
    if start is None:
        if "architecture" in table:
            return _of_timm(table, classes)
        try:
            return IllamaConfig(**table, classes=classes)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The recipe describes no network ({error}).",
                hint=f"Complete its [model] table, or start from a checkpoint ({parameter('checkpoint')}).",
            ) from error
    given: Any = start.config
    if classes != given.classes and not new_head:
        raise DataError(
            f"The data has {classes} classes and the checkpoint {given.classes}.",
            where=start.path,
            hint=f"Give the data that it was trained for, or train a new head ({parameter(new_head=True)}).",
        )
    width = table.get("head_width", given.head_width) if new_head else given.head_width
    features = {"features": False} if isinstance(given, VitConfig) else {}
    try:
        own: NetworkConfig = replace(given, classes=classes, head_width=width, **features)
    except ValueError as error:
        raise UsageError(
            f"A UperNet does not fit the checkpoint: {error}.",
            where=start.path,
            hint=f"Mend {parameter('image_size')}, or take a deeper checkpoint.",
        ) from error
    asked = {**table, "classes": classes}
    differs = [f"{key} {getattr(own, key, None)}, not {x}" for key, x in asked.items() if getattr(own, key, None) != x]
    if differs:
        raise UsageError(
            f"The checkpoint is not the recipe's network: {', '.join(differs)}.",
            where=start.path,
            hint="Take another checkpoint, or a recipe without these keys of [model].",
        )
    return own


def _of_timm(table: dict[str, Any], classes: int) -> VitConfig:
    """The geometry of the network of timm's that a [model] table names."""
    name = find_architecture(table["architecture"])
    if name is None:
        near = nearest_names(table["architecture"])
        raise UsageError(
            f"There is no architecture {table['architecture'][:80]!r} that is covered.",
            hint=f"Did you mean {' or '.join(near)}?" if near else "Names are timm's, such as vit_small_patch16_224.",
        )
    try:
        config = read_timm(name, make_on_meta(name, _arguments(table, classes))).config
        width = table.get("head_width", 0)
        return replace(config, head_width=width, classes=classes) if width else config
    except (UnsupportedError, ValueError) as error:
        raise UsageError(f"{name} cannot be trained like this: {error}.", hint="Mend its [model] table.") from error


def _arguments(table: dict[str, Any], classes: int) -> dict[str, Any]:
    """Of timm's constructor."""
    return {ARGUMENTS[key]: x for key, x in table.items() if key in ARGUMENTS} | {"num_classes": classes}


def begin(
    recipe: TrainRecipe,
    config: NetworkConfig,
    start: Checkpoint | None,
    select_from: str | Path | None,
    *,
    heads: int | None,
    new_head: bool,
) -> Network:
    """The network with its first values: drawn, a checkpoint's (but for a new head's), or selected from a larger
    network. Where the recipe freezes all else, the head alone learns."""
    model = build_network(config, drop_path=recipe.drop_path)
    if isinstance(config, VitConfig) and start is None:
        arguments = _arguments({**dict(recipe.model), "image_size": config.image_size}, config.classes)
        reading = read_timm(config.architecture, make_on_meta(config.architecture, arguments))
        drawn = reading.translate(initial_state(config.architecture, arguments))
        whole = not config.head_width
        model.load_state_dict({key: x for key, x in drawn.items() if whole or key in model.state_dict()}, strict=whole)
    if select_from is not None:
        if not isinstance(config, IllamaConfig):
            raise UsageError("Weights are selected for iLLaMAs only.", hint=f"Leave {parameter('select_from')} out.")
        selected = select_weights(config, select_from, heads=heads)
        model.load_state_dict({key: selected.state[key] for key in selected.taken}, strict=False)
    if start is not None:
        kept = {k: v for k, v in start.state.items() if not (new_head and k.startswith("head"))}
        if config.head_width and not start.config.head_width:  # a UperNet has norms of its own
            kept = {k: v for k, v in kept.items() if k in model.state_dict()}
        model.load_state_dict(kept, strict=not new_head)
    if recipe.frozen:
        for key, value in model.named_parameters():
            value.requires_grad_(key.startswith("head"))
    return model
