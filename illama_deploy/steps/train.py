"""recipe, data, perhaps a checkpoint → a trained float network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from ..data import Batch, Loader, Source, open_data
from ..errors import DataError, UsageError
from ..model.illama import Illama, IllamaConfig
from ..preprocessing import Preprocessing, default_preprocessing
from ..training import (
    Images,
    Processes,
    RunDirectory,
    TensorImages,
    Trainer,
    TrainRecipe,
    join_processes,
    pipeline,
)
from ..training.images import seed_everything
from ..workspace import Workspace

__all__ = ["TrainResult", "make_loaders", "open_training_data", "train"]

#: The trained network, in the run's directory.
MODEL = "model.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Attributes:
        path: the trained network (a checkpoint, or of `qat` a quantized directory).
        directory: the run's: state, log, curves.
        figures: the last epoch's: `loss`, `top1` (percent), `nll`, `images`.
        rank: of this process; only 0 wrote anything.
    """

    path: Path
    directory: Path
    figures: dict[str, Any]
    rank: int = 0


def train(
    recipe: TrainRecipe | str | Path = "digits",
    *,
    checkpoint: str | Path | None = None,
    teacher: str | Path | None = None,
    new_head: bool = False,
    data: str | None = None,
    split: str | None = None,
    eval_data: str | None = None,
    eval_split: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    image_size: tuple[int, int] | None = None,
    heads: int | None = None,
    ema: bool = False,
    micro_batch: int | None = None,
    workers: int = 0,
    compile: bool = False,
    save_minutes: float = 10.0,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train a float network, from nothing or from a checkpoint.

    Args:
        recipe: a `TrainRecipe`, a TOML file, or a shipped recipe's name; `epochs`, `batch_size`, `lr`, `seed` and
            `image_size` override it.
        checkpoint: where to start; `heads` and `ema` as in `read_checkpoint`. Another `image_size` interpolates its
            position embedding.
        teacher: checkpoint to distil from, where the recipe asks for a teacher; `checkpoint` where not given.
        new_head: start with a new head, for other classes than the checkpoint's.
        data, split: what to train on; the recipe's, or the checkpoint's, where not given.
        eval_data, eval_split: what accuracy is measured on; the test or validation split of `data` where not given.
        micro_batch, workers, compile, save_minutes: as in `Images` and `Trainer`; they change speed and memory.
        out: the run's directory; `illama-out/train` where not given.
        resume: go on where the run in `out` was stopped (from the start, where it had not got to a first state).
        force: replace the run that is there; with `resume`, go on although options differ.
        say: gets a line for each epoch.

    Raises:
        DeployError: bad input, or a run that stopped; what it had done is kept.
    """
    resolved = (recipe if isinstance(recipe, TrainRecipe) else TrainRecipe.read(recipe)).override(
        epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
    )
    out = Path(out) if out is not None else Workspace().trained
    size = image_size or dict(resolved.model).get("image_size")
    start = None if checkpoint is None else read_checkpoint(checkpoint, heads=heads, image_size=size, ema=ema)
    spec = data or resolved.data or (start.data if start else None)
    with join_processes() as processes:
        sources = open_training_data(spec, split, eval_data, eval_split)
        names = sources[0].classes
        classes = len(names) or 1 + max(sample.label for sample in sources[0].read(range(len(sources[0]))))
        config = _config(resolved, start, size, classes, new_head=new_head)
        seed_everything(resolved.seed, "weights")
        model = Illama(config, drop_path=resolved.drop_path)
        if start is not None:
            kept = {k: v for k, v in start.state.items() if not (new_head and k.startswith("head."))}
            model.load_state_dict(kept, strict=not new_head)
        preprocessing = _preprocessing(resolved, start, config)
        images, held_out = make_loaders(sources, resolved, preprocessing, processes, classes, micro_batch, workers)
        identity = {
            **{f"recipe.{key}": value for key, value in resolved.to_dict().items()},
            "data": sources[0].spec,
            "split": sources[0].split,
            "start": None if start is None else start.sha256,
        }
        run = RunDirectory(out, identity, resume=resume, force=force, writes=processes.rank == 0)

        def keep(network: Illama) -> None:
            state = {key: tensor.to(getattr(torch, resolved.stored)) for key, tensor in network.state_dict().items()}
            save_checkpoint(out / MODEL, state, config, preprocessing, classes=names, data=sources[0].spec, force=True)

        trainer = Trainer(
            model,
            _teacher(resolved, teacher or checkpoint, config, heads, ema),
            resolved,
            images,
            held_out,
            run,
            processes,
            finish=lambda trained: _rounded(trained, resolved),
            on_epoch=keep,
            compile=compile,
            save_minutes=save_minutes,
            say=say,
        )
        network, figures = trainer.fit()
        if processes.rank == 0:
            keep(network)
    return TrainResult(out / MODEL, out, figures, processes.rank)


def open_training_data(
    spec: str | None, split: str | None, eval_data: str | None, eval_split: str | None
) -> tuple[Source, Source]:
    """Sources of training and of held-out images.

    Raises:
        UsageError: none is named, or both are the same.
        DataError: one cannot be opened, or their classes differ.
    """
    if spec is None:
        raise UsageError(
            "Training needs images, and neither recipe nor checkpoint says which.",
            hint="Give them with --data, such as --data folder:PATH or --data parquet:PATH.",
        )
    source = open_data(spec, split, role="train")
    held_out = open_data(eval_data or spec, eval_split, role="evaluate")
    if (source.spec, source.split) == (held_out.spec, held_out.split):
        raise UsageError(
            "Training and held-out images are the same.",
            where=f"{source.spec}, split {source.split or '(none)'}",
            hint="Name others with --eval-data or --eval-split, or lay them out as split folders.",
        )
    if source.classes and held_out.classes and source.classes != held_out.classes:
        raise DataError(
            f"Training has {len(source.classes)} classes and the held-out images {len(held_out.classes)}, or in "
            "another order.",
            where=held_out.spec,
            hint="Give data of the same classes.",
        )
    return source, held_out


def make_loaders(
    sources: tuple[Source, Source],
    recipe: TrainRecipe,
    preprocessing: Preprocessing,
    processes: Processes,
    classes: int,
    micro_batch: int | None,
    workers: int,
) -> tuple[Images, Iterable[Batch]]:
    """Training images, and this process's share of the held-out ones (kept in memory by the `tensor` pipeline)."""
    chosen = pipeline(recipe, len(sources[0]), preprocessing)
    images = chosen(
        sources[0], recipe, preprocessing, processes, classes=classes, micro_batch=micro_batch, workers=workers
    )
    share = range(processes.rank, len(sources[1]), processes.count)
    held_out = Loader(sources[1], preprocessing, classes=classes, indices=share)
    return images, list(held_out) if chosen is TensorImages else held_out


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
                hint="Complete its [model] table, or start from a checkpoint (--checkpoint).",
            ) from error
    if classes != start.config.classes and not new_head:
        raise DataError(
            f"The data has {classes} classes and the checkpoint {start.config.classes}.",
            where=start.path,
            hint="Give the data that it was trained for, or train a new head (--new-head).",
        )
    own = replace(start.config, classes=classes)
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
    own = default.override(mean=recipe.mean or None, std=recipe.std or None)
    if own.channels != config.channels:
        raise UsageError(
            f"The recipe has means for {own.channels} channels and the network {config.channels}.",
            hint="Mend 'mean' and 'std' of the recipe.",
        )
    return own


def _teacher(
    recipe: TrainRecipe, path: str | Path | None, config: IllamaConfig, heads: int | None, ema: bool
) -> Illama | None:
    if not (recipe.teacher or recipe.features):
        return None
    if path is None:
        raise UsageError("The recipe distils from a teacher, and there is none.", hint="Name one with --teacher.")
    return read_checkpoint(path, heads=heads, image_size=config.image_size, ema=ema).build()


def _rounded(model: Illama, recipe: TrainRecipe) -> Illama:
    """A copy whose weights are what the file will hold."""
    network = copy.deepcopy(model).cpu().eval()
    if recipe.stored == "float16":
        for parameter in network.parameters():
            parameter.data = parameter.half().float()
    return network
