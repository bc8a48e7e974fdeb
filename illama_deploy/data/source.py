"""What a source of images is."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeVar

from ..errors import DataError
from ..names import shown
from ..task_names import hint_on_labels, labels_for
from .decode import UndecodableError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["NO_LABEL", "ROLES", "Request", "Sample", "Source", "find_split", "mentions_split", "resized", "split_kind"]

T = TypeVar("T")

#: Split names to look for, in order, where the user names none.
ROLES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "calibrate": ("train", "training"),
    "evaluate": ("test", "validation", "val", "valid"),
}
#: What splits are called, by the words that say what they are for.
_KINDS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "val", "valid", "dev", "development", "holdout"),
}
_FILLERS = ("set", "split", "data", "images", "imgs", "dataset")
#: The label of a sample that has none.
NO_LABEL = -1


def split_kind(name: str) -> str | None:
    """`train`, `test` or `validation` where a folder or file of this name is a split: `training_set`, `Val`, `dev`."""
    words = re.findall(r"[a-z]+", name.lower())
    words = [word[: -len("set")] if word.endswith("set") and word != "set" else word for word in words]
    kinds = {kind for kind, known in _KINDS.items() for word in words if word in known}
    rest = [word for word in words if word not in _FILLERS and not any(word in known for known in _KINDS.values())]
    return kinds.pop() if len(kinds) == 1 and not rest else None


def mentions_split(name: str) -> bool:
    """Whether a split's word stands in it, whatever else does: `seg_train`."""
    return any(word in known for word in re.findall(r"[a-z]+", name.lower()) for known in _KINDS.values())


def find_split(wanted: Sequence[str], names: Iterable[str]) -> str | None:
    """The first of the splits wanted that is there, by its own name or another for the same thing."""
    there = list(names)
    for split in wanted:
        if split in there:
            return split
    usual = {name for names in ROLES.values() for name in names}
    for kind in dict.fromkeys(split_kind(split) for split in wanted if split in usual):
        alike = [name for name in there if split_kind(name) == kind]
        if len(alike) == 1:
            return alike[0]
    return None


@dataclass(frozen=True)
class Request:
    """What an opener gets.

    Attributes:
        path: what stands behind the scheme.
        splits: names to try in order; none where the data has no splits.
        named: whether the user named the split, so that one which isn't there is an error.
        options: what stands behind `?` in the spec.
        names: of classes in label order, where a file says so.
    """

    path: str
    splits: tuple[str, ...]
    named: bool
    options: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One image, not decoded yet.

    Attributes:
        index: position in the source's order.
        name: what to call it in a message.
        label: 0 where pixels have labels instead; `NO_LABEL` where there is none.
        load: decodes it; raises `UndecodableError` where the image is broken.
        mask: decodes the pixels' labels, given the image's (width, height); see `labels_of`. Raises `BrokenMaskError`
            where they are broken.
    """

    index: int
    name: str
    label: int
    load: Callable[[], Image]
    mask: Callable[[tuple[int, int]], Image] | None = None

    def decoded(self, mode: str) -> Image:
        """The image, decoded, in a mode of Pillow's. What is done with it then is no part of this: a failure there must
        not be called a broken image.

        Raises:
            DataError: it is broken.
        """
        try:
            return self.load().convert(mode)
        except UndecodableError as error:
            what = f"The image cannot be decoded ({error})."
            raise DataError(what, where=self.name, hint="Mend or remove it.") from error


def resized(sample: Sample, image: Image, transform: Callable[[Image], T]) -> T:
    """A decoded image, transformed as for evaluation.

    Raises:
        DataError: the transform fails, as on an image that has no height left; such an image is not broken.
    """
    try:
        return transform(image)
    except Exception as error:  # of timm's, torchvision's or Pillow's: it may be anything
        width, height = image.size
        raise DataError(
            f"The image was decoded ({width} × {height} px), but not resized ({error or type(error).__name__}).",
            where=sample.name,
            hint="Remove it where its sides are out of proportion; else mend the preprocessing.",
        ) from error


class Source(ABC):
    """Images in a fixed order, read on demand.

    Attributes:
        spec: the spec string that opens it again.
        split: the split's name, or "" where there is only one.
        classes: class names in label order, or empty where unknown.
        by_name: whether these names may be held to a network's (`?classes=ignore` says that they may not).
        task: what labels are of: a name of `task_names`.
        unlabelled: why there are no labels, half a sentence; empty where there are.
        notes: what was left out, altered or guessed, in words.
        places: folders that samples lie in.
    """

    spec: str
    split: str
    classes: tuple[str, ...] = ()
    by_name: bool = True
    task: str = "classification"
    unlabelled: str = ""
    notes: tuple[str, ...] = ()
    places: tuple[Path, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples of `indices`, which ascend."""

    def outputs(self) -> int:
        """How many logits a network needs to learn these labels; they are read where nobody names the classes."""
        return len(self.classes) or 1 + max(sample.label for sample in self.read(range(len(self))))

    def require_task(self, task: str) -> None:
        """Hold the labels to what the network does.

        Raises:
            DataError: it has another task.
        """
        if self.task != labels_for(task):
            raise DataError(
                f"The data is labelled for {self.task} and the network is for {task}.",
                where=self.spec,
                hint=hint_on_labels(self.task, task),
            )

    def inside(self, name: str) -> str:
        """The name of a sample as it may be written into what ships: without the place of the data on this machine."""
        for path in self.places:
            name = name.removeprefix(f"{shown(path)}{os.sep}")
        return PurePath(name).name if PurePath(name).is_absolute() or name.startswith("..") else name

    def require_labels(self) -> None:
        """Refuse images without labels, for a step that needs them.

        Raises:
            DataError: saying what is missing.
        """
        if self.unlabelled:
            raise DataError(
                f"This step needs labels, and finds none: {self.unlabelled}.",
                where=shown(self.spec),
                hint="Give labelled images: folder:PATH with a folder for each class, or parquet:PATH with a column of "
                "labels. Calibration (quantize) takes images without.",
            )

    def at(self, index: int) -> Sample:
        """One sample, in any order."""
        return next(iter(self.read([index])))
