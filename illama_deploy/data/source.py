"""What a source of images is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError

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
        label: 0 where pixels have labels instead.
        load: decodes it; raises OSError, ValueError or SyntaxError where the image is broken.
        mask: decodes the pixels' labels, given the image's (width, height); see `labels_of`.
    """

    index: int
    name: str
    label: int
    load: Callable[[], Image]
    mask: Callable[[tuple[int, int]], Image] | None = None


class Source(ABC):
    """Images in a fixed order, read on demand.

    Attributes:
        spec: the spec string that opens it again.
        split: the split's name, or "" where there is only one.
        classes: class names in label order, or empty where unknown.
        task: what labels are of: `classification` of images, or `segmentation` of pixels.
    """

    spec: str
    split: str
    classes: tuple[str, ...] = ()
    task: str = "classification"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples of `indices`, which ascend."""

    def require_task(self, task: str) -> None:
        """Hold the labels to what the network does.

        Raises:
            DataError: it has another task.
        """
        if self.task != task:
            raise DataError(
                f"The data is labelled for {self.task} and the network is for {task}.",
                where=self.spec,
                hint="Use segmentation:PATH with networks that classify pixels (head_width of a recipe's [model]), and "
                "with no others.",
            )

    def at(self, index: int) -> Sample:
        """One sample, in any order."""
        return next(iter(self.read([index])))
