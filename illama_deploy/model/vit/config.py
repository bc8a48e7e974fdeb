"""The geometry of a pre-norm vision transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..network import NetworkConfig

__all__ = ["Activation", "Pool", "Rotary", "VitConfig"]

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
Pool = Literal["class", "both", "mean", "mean_first"]
Rotary = Literal["none", "shared", "mixed"]


@dataclass(frozen=True)
class VitConfig(NetworkConfig):
    """Geometry of one network.

    Attributes:
        architecture: timm's name of it, to be shown.
        classes: width of the head; the network's own where `features` are given out.
        features: whether there is no classifier: what the head would read is given out.
        others: tokens in front of the image tokens: the class token, a second one (distilled), registers.
        positions: whether a position embedding is added.
        rotary: none, one table for all blocks (`shared`), or learned frequencies of each block and head (`mixed`). The
            `others` are not turned.
        entry: whether a norm stands in front of the first block.
        gated: act(gate x) * up x, or act(up x).
        attention_norm, ffn_norm: whether there is a norm inside the branch, before its last layer.
        layer_scale: whether each branch's output is multiplied channel by channel.
        pool: what the head reads: the class token; `both`, for the sum of two heads on the first two tokens; the mean
            of the image tokens' norms, or the norm of their mean (`mean_first`).
    """

    family: ClassVar[str] = "vit"

    architecture: str
    dim: int
    depth: int
    heads: int
    image_size: tuple[int, int]
    patch_size: int
    channels: int
    classes: int
    hidden: int
    head_width: int = 0
    features: bool = False
    others: int = 1
    positions: bool = True
    rotary: Rotary = "none"
    entry: bool = False
    norm: Literal["layer", "rms"] = "layer"
    eps: float = 1e-6
    activation: Activation = "gelu"
    gated: bool = False
    attention_norm: bool = False
    ffn_norm: bool = False
    layer_scale: bool = False
    pool: Pool = "class"

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.patch_size, self.channels, self.classes, self.hidden) < 1:
            raise ValueError("every size of the network must be at least 1")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must split into {self.heads} heads of an even size")
        if any(side % self.patch_size or side < self.patch_size for side in self.image_size):
            raise ValueError(f"image size {self.image_size} must be a multiple of patch size {self.patch_size}")
        if self.others < {"class": 1, "both": 2}.get(self.pool, 0):
            raise ValueError(f"pool {self.pool!r} reads tokens that are not there")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError("eps must be a number above 0")
        if self.features and (self.classes != self.dim or self.head_width):
            raise ValueError("features are as wide as the network")
        self.require_levels()

    def opening(self) -> dict[str, Any]:
        """Options of `read_checkpoint` that make a checkpoint this network again."""
        return {**super().opening(), "model": self.architecture, "num_classes": 0 if self.features else self.classes}

    @property
    def tokens(self) -> int:
        """Sequence length: image tokens and the others."""
        return self.grid[0] * self.grid[1] + self.others

    @property
    def task(self) -> str:
        """What the network is for; the shape of what it gives out does not tell features from classes."""
        return "features" if self.features else super().task
