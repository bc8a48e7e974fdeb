"""recipe, data, perhaps a checkpoint → a trained float network."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..atomic import require_apart
from ..checkpoint import Checkpoint, read_checkpoint, save_checkpoint, select_weights
from ..data import require_classes
from ..errors import DataError, UsageError, parameter
from ..hashing import sha256_file
from ..memory import remember_images
from ..model.illama import Illama, IllamaConfig
from ..model.network import Network, task_of_head
from ..options import step
from ..options.steps import TrainOptions
from ..preprocessing import Preprocessing, default_preprocessing
from ..rewrites import restructure
from ..tasks import find_task
from ..training import (
    RunDirectory,
    RunOptions,
    Trainer,
    TrainRecipe,
    join_processes,
    require_memory,
    seed_everything,
)
from ..workspace import Workspace
from .shared.images import EMBEDDED_IMAGES, which_images
from .shared.inputs import paths_of

__all__ = ["TrainResult", "train"]

#: The trained network, in the run's directory.
MODEL = "model.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Attributes:
        path: the trained network (a checkpoint, or of `qat` a quantized directory).
        directory: the run's: state, log, curves.
        figures: the last epoch's: `mean_loss`, and those of `Task.measure_held_out`.
        rank: of this process; only 0 wrote anything.
    """

    path: Path
    directory: Path
    figures: dict[str, Any]
    rank: int = 0


@step(TrainOptions)
def train(options: TrainOptions) -> TrainResult:
    """Train a float network, from nothing or from a checkpoint.

    Raises:
        DeployError: bad input, or a run that stopped; what it had done is kept.
    """
    recipe, checkpoint, teacher, select_from = options.recipe, options.checkpoint, options.teacher, options.select_from
    new_head, workspace = options.new_head, options.place.workspace
    heads, image_size, ema = options.geometry.heads, options.geometry.image_size, options.geometry.ema
    if checkpoint is not None and select_from is not None:
        both = " and ".join(map(parameter, ("checkpoint", "select_from")))
        raise UsageError(f"Both {both} are given.", hint="Give one of them.")
    shared = RunOptions.of(options.run)
    place = workspace or Workspace()
    resolved, out = shared.resolve(recipe).override(frozen=options.frozen or None), shared.out or place.trained
    require_apart(out / MODEL, paths_of(checkpoint, teacher, select_from, shared.data, shared.eval_data))
    if resolved.frozen and checkpoint is None:
        raise _headless()
    table = dict(resolved.model)
    size = image_size or table.get("image_size")
    patch = table.get("patch_size") if table.get("head_width") else None
    start = (
        None
        if checkpoint is None
        else read_checkpoint(checkpoint, heads=heads, image_size=size, patch_size=patch, ema=ema)
    )
    with join_processes(shared.threads) as processes, ExitStack() as held:
        said = resolved.data or (start.data if start else None)
        sources = shared.open_sources(which_images(shared.data, said, start.sha256 if start else None, what="Training"))
        names = sources[0].classes
        classes = sources[0].outputs()
        wanted = task_of_head(table.get("head_width", start and start.config.head_width), classes, sources[0].task)
        for source in sources:
            source.require_task(wanted)
        new_head = new_head or (start is not None and start.config.task != wanted)
        if start is not None and start.config.classes == classes and not new_head:
            require_classes(sources[0], classes, start.classes, whose="checkpoint")
        config = _config(resolved, start, size, classes, new_head=new_head)
        require_memory(config)
        preprocessing = _preprocessing(resolved, start, config)
        task = find_task(wanted)
        images, held_out = shared.load(sources, resolved, preprocessing, processes, classes, task)
        seed_everything(resolved.seed, "weights")
        model = Illama(config, drop_path=resolved.drop_path)
        if select_from is not None:
            selected = select_weights(config, select_from, heads=heads)
            model.load_state_dict({key: selected.state[key] for key in selected.taken}, strict=False)
        _start_from(model, start, new_head=new_head, frozen=bool(resolved.frozen))
        identity = {**resolved.identity(), "data": sources[0].spec, "split": sources[0].split,
                    "image_size": config.image_size, "start": start and start.sha256,
                    "select_from": select_from and str(select_from)}  # fmt: skip
        own = EMBEDDED_IMAGES if sources[0].spec == EMBEDDED_IMAGES else None
        going_on = {"resume": shared.resume, "force": shared.force}
        run = held.enter_context(RunDirectory(out, identity, **going_on, writes=processes.rank == 0))

        def keep(network: Network) -> None:
            state = {key: tensor.to(getattr(torch, resolved.stored)) for key, tensor in network.state_dict().items()}
            save_checkpoint(out / MODEL, state, config, preprocessing, classes=names, data=own, force=True)

        distilled = _teacher(resolved, teacher or checkpoint, config, heads=heads, ema=ema)
        for each in (model, distilled):
            if each is not None:
                restructure(each, ["class_token_last_block"])  # the same function, for 10/12 of a block less
        then: dict[str, Any] = {"finish": lambda m: _rounded(m, resolved), "keep": keep}
        trainer = Trainer(model, distilled, images, held_out, run, shared, judge=task.measure_held_out, **then)
        network, figures = trainer.fit()
        if run.writes:
            keep(network)
            made = sha256_file(out / MODEL)
            remember_images(made, sources[0].spec)
            place.record(
                "train",
                out / MODEL,
                named=workspace is not None,
                source=start.path if start else None,
                checkpoint=made,
                checkpoint_name=MODEL,
                format="float32",
            )
    return TrainResult(out / MODEL, out, figures, processes.rank)


def _start_from(model: Illama, start: Checkpoint | None, *, new_head: bool, frozen: bool) -> None:
    """Give a network a checkpoint's weights, but for a new head's; let the head alone learn if all else is frozen."""
    if start is not None:
        kept = {k: v for k, v in start.state.items() if not (new_head and k.startswith("head."))}
        model.load_state_dict(kept, strict=not new_head)
    if frozen:
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key.startswith("head."))


def _config(
    recipe: TrainRecipe, start: Checkpoint | None, size: tuple[int, int] | None, classes: int, *, new_head: bool
) -> IllamaConfig:
    """The network's geometry: the recipe's, or the starting checkpoint's."""
    table = {**dict(recipe.model), **({"image_size": size} if size else {}), "classes": classes}
    if start is None:
        try:
            return IllamaConfig(**table)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The recipe describes no network ({error}).",
                hint=f"Complete its [model] table, or start from a checkpoint ({parameter('checkpoint')}).",
            ) from error
    given = start.illama("Training")
    if classes != given.classes and not new_head:
        raise DataError(
            f"The data has {classes} classes and the checkpoint {given.classes}.",
            where=start.path,
            hint=f"Give the data that it was trained for, or train a new head ({parameter(new_head=True)}).",
        )
    width = table.get("head_width", given.head_width) if new_head else given.head_width
    try:
        own = replace(given, classes=classes, head_width=width)
    except ValueError as error:
        raise UsageError(
            f"A UperNet does not fit the checkpoint: {error}.",
            where=start.path,
            hint=f"Mend {parameter('image_size')}, or take a deeper checkpoint.",
        ) from error
    differs = [f"{key} {getattr(own, key)}, not {value}" for key, value in table.items() if getattr(own, key) != value]
    if differs:
        raise UsageError(
            f"The checkpoint is not the recipe's network: {', '.join(differs)}.",
            where=start.path,
            hint="Take another checkpoint, or a recipe without these keys of [model].",
        )
    return own


def _preprocessing(recipe: TrainRecipe, start: Checkpoint | None, config: IllamaConfig) -> Preprocessing:
    default = start.preprocessing if start is not None else default_preprocessing(config.image_size, config.channels)
    own = default.override(
        mean=recipe.mean or None, std=recipe.std or None, crop=recipe.crop if config.head_width else None
    )
    if own.channels != config.channels:
        raise UsageError(
            f"The recipe has means for {own.channels} channels and the network {config.channels}.",
            hint="Mend 'mean' and 'std' of the recipe.",
        )
    return own


def _headless() -> UsageError:
    what, hint = "Only the head is to learn, and the rest has no weights.", f"Give them with {parameter('checkpoint')}."
    return UsageError(what, hint=hint)


def _teacher(recipe: TrainRecipe, path: str | Path | None, config: IllamaConfig, **options: Any) -> Network | None:
    if not (recipe.teacher or recipe.features):
        return None
    if path is None:
        raise UsageError(
            "The recipe distils from a teacher, and there is none.", hint=f"Name one with {parameter('teacher')}."
        )
    return read_checkpoint(path, image_size=config.image_size, **options).build()


def _rounded(model: Illama, recipe: TrainRecipe) -> Illama:
    """A copy whose weights are what the file will hold."""
    network = copy.deepcopy(model).cpu().eval()
    if recipe.stored == "float16":
        network.load_state_dict({key: tensor.half() for key, tensor in network.state_dict().items()})
    network.set_class_query_only(False)
    return network
