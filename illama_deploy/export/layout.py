"""How tokens lie in a graph, and how operators on them are spelled: a value, which a target chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["BATCH_MAJOR", "SEQUENCE_MAJOR", "Layout"]


@dataclass(frozen=True)
class Layout:
    """Axes in names: B images, S tokens, H heads, D channels of a head, E and C channels, h and w pixels.

    Attributes:
        batch_first: tokens are [B, S, E]; else they are rows [S·B, E], row s·B + b being token s of image b.
        norm: RMSNormalization, or its primitive operations.
        rope: RotaryEmbedding of neighbouring channels (rows only), or x·cos + concat(-x2, x1)·sin on the halves of each
            head, the channels of queries and keys reordered for it.
        linear: Gemm with its bias (rows only), or MatMul and Add.
    """

    batch_first: bool
    norm: Literal["operator", "primitives"]
    rope: Literal["operator", "halves"]
    linear: Literal["Gemm", "MatMul"]

    def __post_init__(self) -> None:
        if self.batch_first and (self.rope == "operator" or self.linear == "Gemm"):
            raise ValueError("RotaryEmbedding and Gemm are for tokens that are rows")
        if self.rope == "halves" and not self.batch_first:
            raise ValueError("RoPE on halves is for tokens [B, S, E]")

    @property
    def letters(self) -> str:
        """The order of images and tokens."""
        return "BS" if self.batch_first else "SB"

    @property
    def batch_axis(self) -> int:
        """The axis of images where tokens and images stand apart; that of tokens is the other of the first two."""
        return self.letters.index("B")

    @property
    def token_axis(self) -> int:
        """The axis of tokens."""
        return self.letters.index("S")

    def apart(self, tokens: int, *rest: int) -> tuple[int, ...]:
        """The shape, for Reshape, of so many tokens of each image, images and tokens on axes of their own."""
        return (-1, tokens, *rest) if self.batch_first else (tokens, -1, *rest)

    def joined(self, tokens: int, channels: int) -> tuple[int, ...]:
        """The shape, for Reshape, of tokens as Linear layers take them."""
        return (-1, tokens, channels) if self.batch_first else (-1, channels)

    def blocks(self, size: int) -> tuple[int, ...]:
        """The shape that cuts the channels of tokens, as Linear layers take them, into rows of so many."""
        return (0, 0, -1, size) if self.batch_first else (-1, size)

    def unblocked(self, width: int) -> tuple[int, ...]:
        """The shape that undoes `blocks`; a 0 keeps the axis."""
        return (0, 0, width) if self.batch_first else (-1, width)

    def perm(self, given: str, wanted: str) -> list[int]:
        """What Transpose is given to bring axes into another order, each a letter."""
        return [given.index(letter) for letter in wanted]

    def pixels(self, size: tuple[int, int], *rest: int) -> tuple[int, ...]:
        """The shape, for Reshape, of a map's pixels as Linear layers give them, every axis on its own."""
        return (-1, *size, *rest) if self.batch_first else (*size, -1, *rest)

    @property
    def pixel_axes(self) -> str:
        """The order of images, rows and columns of a map's pixels."""
        return "Bhw" if self.batch_first else "hwB"


#: All GEMMs are plain ones on matrices: what ONNX Runtime and TensorRT fuse best.
SEQUENCE_MAJOR = Layout(batch_first=False, norm="operator", rope="operator", linear="Gemm")
#: The patterns that OpenVINO turns into single nodes.
BATCH_MAJOR = Layout(batch_first=True, norm="primitives", rope="halves", linear="MatMul")
