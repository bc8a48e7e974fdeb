"""What a source of images is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ROLES", "Sample", "Source"]

#: Split names to look for, in order, where the user names none.
ROLES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "calibrate": ("train", "training"),
    "evaluate": ("test", "validation", "val", "valid"),
}


@dataclass(frozen=True)
class Sample:
    """One image, not decoded yet.

    Attributes:
        index: position in the source's order.
        name: what to call it in a message.
        load: decodes it; raises OSError, ValueError or SyntaxError where the image is broken.
    """

    index: int
    name: str
    label: int
    load: Callable[[], Image]


class Source(ABC):
    """Images in a fixed order, read on demand.

    Attributes:
        spec: the spec string that opens it again.
        split: the split's name, or "" where there is only one.
        classes: class names in label order, or empty where unknown.
    """

    spec: str
    split: str
    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples of `indices`, which ascend."""

    def at(self, index: int) -> Sample:
        """One sample, in any order."""
        return next(iter(self.read([index])))
