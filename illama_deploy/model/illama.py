"""iLLaMA: a LLaMA-shaped vision transformer.

After *Adapting LLaMA Decoder to Vision Transformer* (arXiv 2404.06773v4) and the authors' released code, whose
state-dict keys load here as they are. Three things differ from what one would write by habit, and released
weights need each of them:

- the class token comes **last**, so that under causal attention it sees every image token;
- the causal mask **multiplies** the attention map **after** softmax, and rows are not renormalised
  (the paper's Eq. 1 writes the additive -inf form; the released code and weights use this one);
- rotary embedding turns **adjacent** pairs (2i, 2i+1), the class token standing at position N.

Shapes in names: B batch, H heads, S sequence (N image tokens + 1), D head dimension, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Attention", "Block", "Illama", "IllamaConfig", "MatMul", "RMSNorm", "SwiGLU", "swiglu_hidden"]

ROPE_BASE = 10000.0
NORM_EPS = 1e-6


def swiglu_hidden(dim: int) -> int:
    """Width of the SwiGLU FFN: 2/3 of 4·dim, rounded up to a multiple of 256 (the LLaMA rule)."""
    return 256 * -(-int(2 * 4 * dim / 3) // 256)


@dataclass(frozen=True)
class IllamaConfig:
    """Geometry of one network.

    Attributes:
        image_size: (height, width) in pixels; multiples of `patch_size`.
        hidden: width of the FFN; the LLaMA rule where not given.
    """

    dim: int
    depth: int
    heads: int
    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    channels: int = 3
    classes: int = 1000
    hidden: int = 0

    def __post_init__(self) -> None:
        if not self.hidden:
            object.__setattr__(self, "hidden", swiglu_hidden(self.dim))
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must split into {self.heads} heads of an even size")
        if any(side % self.patch_size or side < self.patch_size for side in self.image_size):
            raise ValueError(f"image size {self.image_size} must be a multiple of patch size {self.patch_size}")

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.dim // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (height, width)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """Sequence length: image tokens and the class token."""
        return self.grid[0] * self.grid[1] + 1


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 (half precision collapses it)."""

    def __init__(self, dim: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).type_as(x) * self.weight


class MatMul(nn.Module):
    """A product of two activations, as a module so that it is a site which can be observed and quantized."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


def rope_table(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each of shape [positions, head_dim / 2], float32."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def apply_rope(x_BHSD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Rotate each adjacent pair (2i, 2i+1) of the last axis as a complex number."""
    even, odd = x_BHSD[..., 0::2], x_BHSD[..., 1::2]
    return torch.stack((even * cos_SD - odd * sin_SD, even * sin_SD + odd * cos_SD), -1).flatten(-2)


class Attention(nn.Module):
    """Rotary attention with the multiplied mask.

    `scale` is 1/sqrt(D), or 1 once a rewrite has folded it into the query rows of `qkv`.
    With `last_query_only`, only the last token asks; keys and values are still made for all.
    `rotate_q` and `rotate_k` see each head of the rotary-embedded queries and keys; a rewrite may put a rotation there.
    """

    cos_SD: Tensor
    sin_SD: Tensor
    tril_SS: Tensor

    def __init__(self, config: IllamaConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.scale = config.head_dim**-0.5
        self.last_query_only = False
        self.soft_mask = 0.0
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.rotate_q: nn.Module = nn.Identity()
        self.rotate_k: nn.Module = nn.Identity()
        self.qk = MatMul()
        self.pv = MatMul()
        self.proj = nn.Linear(config.dim, config.dim)
        cos, sin = rope_table(config.tokens, config.head_dim)
        self.register_buffer("cos_SD", cos, persistent=False)
        self.register_buffer("sin_SD", sin, persistent=False)
        self.register_buffer("tril_SS", torch.ones(config.tokens, config.tokens).tril(), persistent=False)

    def forward(self, x_BSE: Tensor) -> Tensor:
        B, S, E = x_BSE.shape
        q, k, v = self.qkv(x_BSE).view(B, S, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        first = S - 1 if self.last_query_only else 0
        q = self.rotate_q(apply_rope(q[:, :, first:], self.cos_SD[first:], self.sin_SD[first:]))
        k = self.rotate_k(apply_rope(k, self.cos_SD, self.sin_SD))
        scores_BHSS = self.qk(q, k.transpose(-2, -1))
        if self.scale != 1.0:
            scores_BHSS = scores_BHSS * self.scale
        mask_SS = self.tril_SS[first:]
        if self.soft_mask:
            mask_SS = self.soft_mask + (1 - self.soft_mask) * mask_SS
        map_BHSS = scores_BHSS.softmax(-1) * mask_SS
        return self.proj(self.pv(map_BHSS, v).transpose(1, 2).reshape(B, S - first, E))


class SwiGLU(nn.Module):
    """fc2(silu(fc1 x) * fc3 x), without biases. A rewrite may put a rotation of the product at `rotate`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.rotate: nn.Module = nn.Identity()
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        self.fc3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.rotate(F.silu(self.fc1(x)) * self.fc3(x)))


class Block(nn.Module):
    """x += attn(norm1(x)); x += mlp(norm2(x))."""

    def __init__(self, config: IllamaConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        from timm.layers import DropPath

        self.norm1 = RMSNorm(config.dim)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.dim)
        self.mlp = SwiGLU(config.dim, config.hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BSE: Tensor) -> Tensor:
        attended = self.drop_path(self.attn(self.norm1(x_BSE)))
        # With `last_query_only` the residual of the last token alone goes on.
        x_BSE = x_BSE[:, -attended.shape[1] :] + attended
        return x_BSE + self.drop_path(self.mlp(self.norm2(x_BSE)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches: a convolution whose stride is its kernel."""

    def __init__(self, config: IllamaConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.proj(images_BCHW).flatten(2).transpose(1, 2)


class Illama(nn.Module):
    """Images [B, C, H, W], normalised, to logits [B, classes]."""

    blocks: Sequence[Block]

    def __init__(self, config: IllamaConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.classes
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        rates = [drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)  # type: ignore[assignment]
        self.norm = RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, config.classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors do: truncated normal of deviation 0.02, zero biases."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_soft_mask(self, ratio: float) -> None:
        """Let `ratio` (1: bidirectional, 0: causal) of the masked-out attention through, in every block."""
        for block in self.blocks:
            block.attn.soft_mask = float(ratio)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone (timm's convention)."""
        return {"pos_embed", "cls_token"}

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BNE = self.patch_embed(images_BCHW)
        cls_B1E = self.cls_token.expand(len(x_BNE), -1, -1)
        x_BSE = torch.cat((x_BNE, cls_B1E), 1) + self.pos_embed
        for block in self.blocks:
            x_BSE = block(x_BSE)
        return self.head(self.norm(x_BSE[:, -1]))
