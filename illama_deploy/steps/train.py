"""recipe, data, perhaps a checkpoint → a trained float network."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..atomic import require_apart
from ..checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from ..data import require_classes
from ..errors import UsageError, parameter
from ..hashing import sha256_file
from ..memory import remember_images
from ..model.network import Network, NetworkConfig, task_of_head
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
from .shared.begin import begin, begin_config, with_architecture
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
    if options.geometry.model is not None and checkpoint is None:
        resolved = with_architecture(resolved, options.geometry.model)
    table = dict(resolved.model)
    size = image_size or table.get("image_size")
    patch = table.get("patch_size") if table.get("head_width") else None
    start = (
        None
        if checkpoint is None
        else read_checkpoint(
            checkpoint, heads=heads, image_size=size, patch_size=patch, ema=ema, model=options.geometry.model
        )
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
        config = begin_config(resolved, start, size, classes, new_head=new_head)
        require_memory(config)
        preprocessing = _preprocessing(resolved, start, config)
        task = find_task(wanted)
        images, held_out = shared.load(sources, resolved, preprocessing, processes, classes, task)
        seed_everything(resolved.seed, "weights")
        model = begin(resolved, config, start, select_from, heads=heads, new_head=new_head)
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


def _preprocessing(recipe: TrainRecipe, start: Checkpoint | None, config: NetworkConfig) -> Preprocessing:
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


def _teacher(recipe: TrainRecipe, path: str | Path | None, config: NetworkConfig, **options: Any) -> Network | None:
    if not (recipe.teacher or recipe.features):
        return None
    if path is None:
        raise UsageError(
            "The recipe distils from a teacher, and there is none.", hint=f"Name one with {parameter('teacher')}."
        )
    return read_checkpoint(path, image_size=config.image_size, **options).build()


def _rounded(model: Network, recipe: TrainRecipe) -> Network:
    """A copy whose weights are what the file will hold."""
    network = copy.deepcopy(model).cpu().eval()
    if recipe.stored == "float16":
        network.load_state_dict({key: tensor.half() for key, tensor in network.state_dict().items()})
    network.set_class_query_only(False)
    return network
