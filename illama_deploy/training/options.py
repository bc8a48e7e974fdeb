"""What `train` and `qat` have in common: on which images, for how long, where, and with which means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..data import Batch, Loader, Scenes, Source, compare_classes, open_data
from ..errors import UsageError
from ..preprocessing import Preprocessing
from .dense import DenseImages
from .images import Images, TensorImages, TimmImages
from .processes import Processes, fast_precision, writes
from .recipe import TrainRecipe
from .state import MOST_THREADS

__all__ = ["RunOptions"]

#: Bytes of pixels that the pipeline `auto` keeps in memory.
MEMORY = 2**30


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        data, split: what to train on; where not given, what the recipe or the checkpoint says, and its training split.
        eval_data, eval_split: held-out images; the test or validation split of `data` where not given.
        epochs, batch_size, lr, seed: in place of the recipe's.
        micro_batch: images that a process takes at a time; its share of a batch where not given.
        workers: processes that decode, for each that trains.
        threads: of torch, in each process; what it takes on this machine where not given, and in a resumed run what the
            run was begun with, since the weights' last bits hang on it.
        compile: compile the blocks.
        save_minutes: save the state this often, besides after every epoch and on SIGTERM, SIGINT or SIGHUP.
        out: the run's directory.
        resume: go on where the run in `out` was stopped (from the start, where there is no state yet).
        force: replace a run that is there; with `resume`, go on although it was begun with other options.
        say: gets a line for each epoch, and for what is done otherwise than the recipe says.
    """

    data: str | None = None
    split: str | None = None
    eval_data: str | None = None
    eval_split: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    micro_batch: int | None = None
    workers: int = 0
    threads: int | None = None
    compile: bool = False
    save_minutes: float = 10.0
    out: str | Path | None = None
    resume: bool = False
    force: bool = False
    say: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        if self.workers < 0 or (self.threads is not None and not 1 <= self.threads <= MOST_THREADS):
            raise UsageError(
                f"There are no {self.workers} workers with {self.threads} threads.",
                hint=f"Use 0 or more --workers, and 1 to {MOST_THREADS} --threads.",
            )

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
                hint="Give them with --data, such as --data folder:PATH or --data parquet:PATH.",
            )
        source = open_data(spec, self.split, role="train")
        held_out = open_data(self.eval_data or spec, self.eval_split, role="evaluate")
        if (source.spec, source.split) == (held_out.spec, held_out.split):
            raise UsageError(
                "Training and held-out images are the same.",
                where=f"{source.spec}, split {source.split or '(none)'}",
                hint="Name others with --eval-data or --eval-split, or lay them out as split folders.",
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
    ) -> tuple[Images, Iterable[Batch]]:
        """Images to train on, and this process's share of the held-out ones."""
        size = len(sources[0]) * preprocessing.channels * preprocessing.size[0] * preprocessing.size[1]
        dense = sources[0].task == "segmentation"
        small = not dense and (size <= MEMORY if recipe.pipeline == "auto" else recipe.pipeline == "tensor")
        images = (DenseImages if dense else TensorImages if small else TimmImages)(
            sources[0],
            recipe,
            preprocessing,
            processes,
            classes=classes,
            micro_batch=self.micro_batch,
            workers=self.workers,
        )
        share = range(processes.rank, len(sources[1]), processes.count)
        held_out = (Scenes if dense else Loader)(sources[1], preprocessing, classes=classes, indices=share)
        return images, list(held_out) if small else held_out
