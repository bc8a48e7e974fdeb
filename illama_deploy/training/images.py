"""Training images. Their order, and what is changed in each, depend on (seed, epoch, position in the data) alone.

So there is no random state to keep: training goes on inside an epoch as it would have, with any number of workers
and of processes. Of these, each takes its share of every batch.
"""

from __future__ import annotations

import random
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import IGNORE, Batch, Sample, Source, resized
from ..errors import (
    DataError,
    DeployError,
    RecipeError,
    Spelling,
    TrainingError,
    UsageError,
    parameter,
    spell,
    spelling,
)
from ..preprocessing import Preprocessing
from ..progress import track
from .augmentation import augmentation
from .processes import Processes
from .recipe import TrainRecipe

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Images", "TensorImages", "TimmImages", "dead_workers_named", "seed_everything"]


def seed_of(*parts: int | str) -> int:
    """A seed of 32 bits, all that torch's generator looks at."""
    return zlib.crc32(repr(parts).encode())


def seed_everything(*parts: int | str) -> None:
    """Seed what timm and torch draw from."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Images(ABC):
    """Labelled images for training, on the CPU.

    Args:
        classes: number of classes of the network.
        micro_batch: images at a time: a process goes through its share of a batch in such pieces; all where not given.
        workers: processes that decode, in the `timm` pipeline.

    Raises:
        DataError: fewer images than a batch, or of one class only.
        UsageError: batches do not split evenly.
    """

    #: Logits that there must be, for something to be learned.
    fewest: ClassVar[int] = 2

    def __init__(
        self,
        source: Source,
        recipe: TrainRecipe,
        preprocessing: Preprocessing,
        processes: Processes,
        *,
        classes: int,
        micro_batch: int | None = None,
        workers: int = 0,
    ) -> None:
        self.source, self.recipe, self.processes = source, recipe, processes
        self.classes, self.workers = classes, workers
        self.share, rest = divmod(recipe.batch_size, processes.count)
        self.micro_batch = self.share if micro_batch is None else micro_batch
        if rest or self.micro_batch < 1 or self.share % self.micro_batch:
            raise UsageError(
                f"A batch of {recipe.batch_size} does not split into {processes.count} processes with "
                f"{self.micro_batch} images at a time.",
                hint=f"Mend {parameter('batch_size')} or {parameter('micro_batch')}.",
            )
        if (recipe.mixup or recipe.cutmix) and self.micro_batch % 2:
            raise UsageError(
                f"Mixing goes by pairs, and {self.micro_batch} images at a time are odd.",
                hint=f"Use an even {parameter('batch_size')} or {parameter('micro_batch')}.",
            )
        if len(source) < recipe.batch_size:
            raise DataError(
                f"The data has {len(source)} images and a batch takes {recipe.batch_size}.",
                where=source.spec,
                hint=f"Lower {parameter('batch_size')}.",
            )
        if classes < self.fewest:
            raise _one_class(source)
        self.prepare(preprocessing)

    @property
    def steps(self) -> int:
        """Whole batches in an epoch."""
        return len(self.source) // self.recipe.batch_size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """Yield this process's micro-batches of every step from `first` on."""
        seed = seed_of(self.recipe.seed, "order", epoch)
        order = torch.randperm(len(self.source), generator=torch.Generator().manual_seed(seed))
        mine = self.processes.rank * self.share
        starts = (step * self.recipe.batch_size + mine for step in range(first, self.steps))
        batches = self.read(
            epoch, [p for at in starts for p in torch.split(order[at : at + self.share], self.micro_batch)]
        )
        for _ in range(first, self.steps):
            yield [next(batches) for _ in range(self.share // self.micro_batch)]

    @staticmethod
    def loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """What training makes small: of logits [B, classes] or [B, classes, H, W], and of labels or their shares."""
        smoothing = 0.0 if targets.is_floating_point() else smoothing  # mixed targets are smooth already
        return F.cross_entropy(logits, targets, label_smoothing=smoothing, ignore_index=IGNORE)

    @staticmethod
    def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """How far logits are from a teacher's, both [B, classes] or [B, classes, H, W]."""
        rows = (x.movedim(1, -1).flatten(0, -2) for x in (logits, wanted))
        own, theirs = (F.log_softmax(x / temperature, -1) for x in rows)
        return F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2

    @abstractmethod
    def prepare(self, preprocessing: Preprocessing) -> None:
        """Build what `read` needs."""

    @abstractmethod
    def read(self, epoch: int, pieces: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield a batch for each piece (positions in the data), images changed as the recipe says."""

    def label(self, sample: Sample) -> float:
        """The sample's label, an int where it is a class.

        Raises:
            DataError: it is of no class of the network.
        """
        if not 0 <= sample.label < self.classes:
            what, hint = f"Label {sample.label} is outside the network's {self.classes} classes.", "Check the data."
            raise DataError(what, where=sample.name, hint=hint)
        return sample.label


def _one_class(source: Source) -> DataError:
    return DataError("There is one class only, so nothing to learn.", where=source.spec, hint="Check the data.")


class TimmImages(Images):
    """Decoded and changed one by one by timm's transforms, in worker processes."""

    def prepare(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.transform = augmentation(self.recipe, preprocessing)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, float | Tensor] | DeployError:
        seed_everything(self.recipe.seed, "image", *key)
        try:
            sample = self.source.at(key[1])
            image = sample.decoded(self.preprocessing.mode)
            with _augmenting(sample, image):
                return self.item(sample, image)
        except DeployError as error:
            return error  # a worker that raises hands over its text alone

    def item(self, sample: Sample, image: Image) -> tuple[Tensor, float | Tensor]:
        """The changed image, and its label or its pixels'."""
        label = self.label(sample)
        return self.transform(image), label

    def read(self, epoch: int, pieces: Sequence[Tensor]) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        self.source.at(0)  # what a source keeps in memory is then shared with the workers
        keys = [[(epoch, index) for index in piece.tolist()] for piece in pieces]
        loader: Any = DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=partial(_begin_worker, spelling()),
        )
        for batch in loader:
            if isinstance(batch, DeployError):
                raise batch
            yield batch


def _begin_worker(way: Spelling, number: int) -> None:
    """What goes wrong in a worker is said as in the process that it works for."""
    spell(way)


@contextmanager
def _augmenting(sample: Sample, image: Image) -> Iterator[None]:
    """What fails inside is the recipe's augmentation: the image itself was decoded."""
    try:
        yield
    except DeployError:
        raise
    except Exception as error:  # of timm's, torchvision's or Pillow's: it may be anything
        raise RecipeError(
            f"The recipe's augmentation failed on an image that decodes ({error or type(error).__name__}).",
            where=f"{sample.name}, {image.mode}, {image.size[0]} × {image.size[1]} px",
            hint="Change auto_augment, crop_scale or color_jitter in a recipe of your own, and go on with "
            f"{parameter(resume=True, force=True)}.",
        ) from error


@contextmanager
def dead_workers_named(where: str) -> Iterator[None]:
    """Say it in words when a worker process dies; torch's signal handler raises wherever the main thread is then."""
    try:
        try:
            yield
        except (ConnectionError, EOFError):
            # Perhaps of one that died while it sent: then the signal is on its way, and must not be raised any later.
            time.sleep(1)
            raise
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"A worker process died ({str(error).splitlines()[0].strip()}).",
            where=where,
            hint=f"Memory may be short: use fewer {parameter('workers')}, and go on with {parameter(resume=True)}.",
        ) from error


def _collate(items: Sequence[tuple[Tensor, float | Tensor] | DeployError]) -> Batch | DeployError:
    images, labels = [], []
    for item in items:
        if isinstance(item, DeployError):
            return item
        images.append(item[0])
        labels.append(torch.as_tensor(item[1]))
    return Batch(torch.stack(images), torch.stack(labels))


class TensorImages(Images):
    """All images decoded once, at the network's size, and changed by whole batches: for images of few pixels."""

    def prepare(self, preprocessing: Preprocessing) -> None:
        transform = preprocessing.transform(normalize=False)
        samples = track(self.source.read(range(len(self.source))), "Decoding", len(self.source))
        decoded = ((resized(s, s.decoded(preprocessing.mode), transform), self.label(s)) for s in samples)
        pixels, labels = zip(*decoded, strict=True)
        self.pixels_NCHW, self.labels_N = torch.stack(pixels), torch.tensor(labels)
        if bool((self.labels_N == self.labels_N[0]).all()):
            raise _one_class(self.source)
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def read(self, epoch: int, pieces: Sequence[Tensor]) -> Iterator[Batch]:
        seed = seed_of(self.recipe.seed, "augment", epoch)
        draws = 2 * torch.rand(len(self.source), 7, generator=torch.Generator().manual_seed(seed)) - 1
        for piece in pieces:
            images = self.change(self.pixels_NCHW[piece].float() / 255, draws[piece].unbind(1))
            yield Batch((images - self.mean) / self.std, self.labels_N[piece])

    def change(self, x_BCHW: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Turn, shear, zoom, shift, flip and brighten by draws in -1..1, each [B]; black comes in from outside."""
        recipe, (low, high) = self.recipe, self.recipe.zoom
        turn, shear = torch.deg2rad(recipe.rotate * draws[0]), torch.deg2rad(recipe.shear * draws[1])
        zoom = 1 / ((high + low + (high - low) * draws[2]) / 2)
        flip = torch.where(draws[3] < 2 * recipe.flip - 1, -zoom, zoom)
        down, right = (2 * recipe.shift * draw for draw in draws[4:6])
        if not (recipe.rotate or recipe.shear) and low == high == 1:  # whole pixels, so that nothing is blurred
            down, right = (
                (x * side / 2).round() * 2 / side for x, side in zip((down, right), x_BCHW.shape[2:], strict=True)
            )
        # From places in the output to places in the input, both reaching from -1 to 1.
        across = torch.stack((flip * turn.cos(), -zoom * (turn + shear).sin(), right), 1)
        along = torch.stack((flip * turn.sin(), zoom * (turn + shear).cos(), down), 1)
        grid = F.affine_grid(torch.stack((across, along), 1), list(x_BCHW.shape), align_corners=False)
        bright = 1 + recipe.brightness * draws[6].view(-1, 1, 1, 1)
        return (F.grid_sample(x_BCHW, grid, align_corners=False) * bright).clamp(0, 1)
