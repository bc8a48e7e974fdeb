"""What every network is to the rest of the package: a geometry, a structure, and a residual stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..task_names import classes_of, names_by_logits
from .structure import Outlet, Structure

__all__ = ["LEVELS", "Network", "NetworkConfig", "task_of_head"]


#: Feature maps that a UperNet reads.
LEVELS = 4


def task_of_head(head_width: int | None, outputs: int, labels: str | None = None) -> str:
    """What a network with such a head and so many logits is for: the task of its labels, where that may be."""
    known = names_by_logits((outputs, 1, 1) if head_width else (outputs,))
    return labels if labels in known else known[0]


class NetworkConfig(ABC):
    """The geometry of a network: a frozen dataclass of plain values, from which it can be built again.

    Attributes:
        family: its name in `families.FAMILIES`.
        image_size: (height, width) in pixels; multiples of `patch_size`.
        classes: width of the head.
        hidden: width of the FFN.
        head_width: channels of a UperNet, which classifies every pixel; 0 for a head of whole images.
    """

    family: ClassVar[str]
    dim: int
    depth: int
    heads: int
    image_size: tuple[int, int]
    patch_size: int
    channels: int
    classes: int
    hidden: int
    head_width: int

    def opening(self) -> dict[str, Any]:
        """Options of `read_checkpoint` that make a checkpoint this network again."""
        return {"heads": self.heads, "image_size": self.image_size}

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Sequence length."""

    @property
    def task(self) -> str:
        """What the network is for, known by its logits: a name of `task_names`."""
        return task_of_head(self.head_width, self.classes)

    @property
    def label_classes(self) -> int | None:
        """How many classes the labels of its images may be of; None where what it gives out are no classes."""
        return classes_of(self.task, self.classes)

    @property
    def logits(self) -> tuple[int, ...]:
        """The shape of one image's logits: (classes,), or of every pixel (classes, H, W)."""
        return (self.classes, *self.image_size) if self.head_width else (self.classes,)

    def require_levels(self) -> None:
        """Hold a UperNet to the backbone that it stands on (for `__post_init__`).

        Raises:
            ValueError: it reads more blocks than there are, or a grid that it cannot halve.
        """
        if not self.head_width:
            return
        if self.head_width < 1 or self.depth < LEVELS:
            raise ValueError(f"a UperNet must read {LEVELS} of at least {LEVELS} blocks; there are {self.depth}")
        if any(side % 2 for side in self.grid):
            raise ValueError(f"the grid of patches {self.grid} must be even, since a UperNet halves it")

    @property
    def levels(self) -> tuple[int, ...]:
        """The blocks after which a UperNet reads: the last, and those about 2/3, 1/2 and 1/3 of the way."""
        chosen = [self.depth - 1]
        for share in (2 / 3, 1 / 2, 1 / 3):
            chosen.insert(0, min(round(share * self.depth) - 1, chosen[0] - 1))
        return tuple(chosen)

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.dim // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (height, width)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class Network(nn.Module):
    """Images [B, C, H, W], normalised, to logits: [B, classes], or of every pixel [B, classes, H, W].

    Attributes:
        pretrained_cfg: what timm asks of a model: input size, mean, deviation, crop.
    """

    config: NetworkConfig
    head: nn.Module
    blocks: Sequence[nn.Module]
    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]

    @property
    def structure(self) -> Structure:
        """What the network is made of."""
        raise NotImplementedError

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        """What leads from the residual stream out of the network."""
        raise NotImplementedError

    @property
    def soft_mask(self) -> float:
        """The share of what a mask hides that is let through; 0 where nothing is hidden."""
        return 0.0

    def set_soft_mask(self, ratio: float) -> None:
        """Let `ratio` of what a mask hides through; where nothing is hidden, every share of it is the same."""

    @property
    def classifiers(self) -> tuple[nn.Module, ...]:
        """The layers whose outputs are the logits, or add up to them."""
        raise NotImplementedError

    def set_class_query_only(self, alone: bool) -> None:
        """Let the tokens that are read ask alone in the last block: the same logits, where nothing else is read."""
        raise NotImplementedError

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        """What `structure.embedding` makes of images [B, S, E], up to its entry, if it has one."""
        raise NotImplementedError

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """The residual stream [B, S, E] that the first block reads."""
        return self.tokens(images_BCHW)

    def stream(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield the residual stream [B, S, E] after each block."""
        raise NotImplementedError

    def decode(self, stream: Iterable[Tensor]) -> Tensor:
        """Logits from what `stream` yields."""
        raise NotImplementedError

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.decode(self.stream(images_BCHW))
