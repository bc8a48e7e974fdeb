"""What `train` and `qat` have in common: on which images, for how long, where, and with which means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..data import Batch, Loader, Source, compare_classes, open_data
from ..errors import UsageError, parameter
from ..options.groups import Run
from ..preprocessing import Preprocessing
from .images import Images, TensorImages
from .processes import Processes, fast_precision, writes
from .recipe import TrainRecipe

__all__ = ["MEMORY", "RunOptions", "TrainedTask"]

#: Bytes of pixels that the pipeline `auto` keeps in memory.
MEMORY = 2**30


class TrainedTask(Protocol):
    """What a task (`tasks`) says of training."""

    def loader(self) -> type[Loader]:
        """What reads held-out images."""

    def training_images(self, recipe: TrainRecipe, numbers: int) -> type[Images]:
        """What reads images for training; so many numbers are in all of them."""


@dataclass(frozen=True)
class RunOptions(Run):
    """Options of a run, and what follows from them."""

    @classmethod
    def of(cls, options: Run) -> RunOptions:
        """The same options."""
        return cls(**options.flat())

    def resolve(self, recipe: TrainRecipe | str | Path) -> TrainRecipe:
        """The recipe of that name, with what is given here in its place, and a precision for this machine."""
        read = recipe if isinstance(recipe, TrainRecipe) else TrainRecipe.read(recipe)
        precision = fast_precision() if read.precision == "auto" else None
        if self.epochs is not None and self.epochs >= 1:
            read, shortened = read.for_epochs(self.epochs)
            for line in shortened if writes() else ():
                self.say(line)
        return read.override(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, seed=self.seed, precision=precision
        )

    def open_sources(self, spec: str | None) -> tuple[Source, Source]:
        """Training and held-out images; `spec` where no data is named here.

        Raises:
            UsageError: none is named, or both are the same.
            DataError: one cannot be opened, has no labels, or their classes differ.
        """
        spec = self.data or spec
        if not spec:
            raise UsageError(
                "Training needs images, and neither recipe nor checkpoint says which.",
                hint=f"Give them with {parameter('data')}, such as {parameter(data='folder:PATH')} or "
                f"{parameter(data='parquet:PATH')}.",
            )
        source = open_data(spec, self.split, role="train")
        held_out = open_data(self.eval_data or spec, self.eval_split, role="evaluate")
        if (source.spec, source.split) == (held_out.spec, held_out.split):
            raise UsageError(
                "Training and held-out images are the same.",
                where=f"{source.spec}, split {source.split or '(none)'}",
                hint=f"Name others with {parameter('eval_data')} or {parameter('eval_split')}, or lay them out as "
                "split folders.",
            )
        if source.classes and held_out.classes and source.by_name and held_out.by_name:
            compare_classes(
                source.classes,
                held_out.classes,
                whose=("training data", "held-out data"),
                where=held_out.spec,
                hint="Give data of the same classes.",
            )
        for what, one in (("training", source), ("held-out", held_out)):
            for note in one.notes:
                self.say(f"{what} data: {note}")
        return source, held_out

    def load(
        self,
        sources: tuple[Source, Source],
        recipe: TrainRecipe,
        preprocessing: Preprocessing,
        processes: Processes,
        classes: int,
        task: TrainedTask,
    ) -> tuple[Images, Iterable[Batch]]:
        """Images to train on, and this process's share of the held-out ones."""
        size = len(sources[0]) * preprocessing.channels * preprocessing.size[0] * preprocessing.size[1]
        kind = task.training_images(recipe, size)
        images = kind(
            sources[0],
            recipe,
            preprocessing,
            processes,
            classes=classes,
            micro_batch=self.micro_batch,
            workers=self.workers,
        )
        share = range(processes.rank, len(sources[1]), processes.count)
        held_out = task.loader()(sources[1], preprocessing, classes=classes, indices=share)
        return images, list(held_out) if issubclass(kind, TensorImages) else held_out
