"""The geometry of a network, and the steps of the road from ViT to iLLaMA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .network import LEVELS, NetworkConfig
from .structure import image_tokens

__all__ = ["LEVELS", "VARIATIONS", "IllamaConfig", "swiglu_hidden"]

#: Options along the road from ViT to iLLaMA; the first of each is iLLaMA's.
VARIATIONS = {
    "ffn": ("swiglu", "gelu"),
    "norm": ("rms", "layer"),
    "mask": ("multiplied", "additive", "modified", "none"),
    "class_token": ("last", "first"),
    "positions": ("both", "learned", "rope"),
}


def swiglu_hidden(dim: int) -> int:
    """Width of the SwiGLU FFN: 2/3 of 4·dim, rounded up to a multiple of 256 (the LLaMA rule)."""
    return 256 * -(-int(2 * 4 * dim / 3) // 256)


@dataclass(frozen=True)
class IllamaConfig(NetworkConfig):
    """Geometry of one network.

    Attributes:
        image_size: (height, width) in pixels; multiples of `patch_size`.
        classes: 0 leaves the head out, for features alone (timm's `num_classes=0`).
        hidden: width of the FFN; the LLaMA rule (4·dim for `gelu`) where not given.
        head_width: channels of a UperNet, which classifies every pixel; 0 for a classifier of whole images.
        ffn: `swiglu`, or `gelu` for ViT's MLP with biases.
        norm: `rms`, or `layer` for LayerNorm.
        mask: causal, `multiplied` after softmax or `additive` before it (the paper's Eq. 1); `modified` is
            multiplied with the class token's row left whole; `none` is bidirectional.
        class_token: `last` or `first` in the sequence.
        positions: `learned`, `rope` or `both`. With `rope` the position embedding stays zero and is not trained.
    """

    family: ClassVar[str] = "illama"

    dim: int
    depth: int
    heads: int
    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    channels: int = 3
    classes: int = 1000
    hidden: int = 0
    head_width: int = 0
    ffn: str = "swiglu"
    norm: str = "rms"
    mask: str = "multiplied"
    class_token: str = "last"
    positions: str = "both"

    def __post_init__(self) -> None:
        for name, known in VARIATIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} must be one of {', '.join(known)}")
        if not self.hidden:
            object.__setattr__(self, "hidden", swiglu_hidden(self.dim) if self.ffn == "swiglu" else 4 * self.dim)
        if min(self.dim, self.depth, self.heads, self.patch_size, self.channels) < 1 or self.classes < 0:
            raise ValueError("every size of the network must be at least 1")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must split into {self.heads} heads of an even size")
        if any(side % self.patch_size or side < self.patch_size for side in self.image_size):
            raise ValueError(f"image size {self.image_size} must be a multiple of patch size {self.patch_size}")
        self.require_levels()

    @property
    def tokens(self) -> int:
        """Sequence length: image tokens and the class token."""
        return self.grid[0] * self.grid[1] + 1

    @property
    def variation(self) -> dict[str, str]:
        """Options that differ from iLLaMA's."""
        return {name: value for name, known in VARIATIONS.items() if (value := getattr(self, name)) != known[0]}

    @property
    def class_index(self) -> int:
        """Where the class token stands in the sequence."""
        return 0 if self.class_token == "first" else -1

    @property
    def image_tokens(self) -> slice:
        """Where the image tokens stand in the sequence."""
        return image_tokens(self.class_index)
