"""Self-attention, as every network here has it: the products are modules, and rotary embedding turns adjacent pairs.

Shapes in names: B batch, H heads, S sequence, D head dimension, E embedding dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Attention", "MatMul", "apply_rope", "rope_table"]

ROPE_BASE = 10000.0


class MatMul(nn.Module):
    """A product of two activations, as a module so that it is a site which can be observed and quantized."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


def rope_table(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each of shape [positions, head_dim / 2], float32."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


class _Rotation(torch.autograd.Function):
    """Rotation of adjacent pairs. Its gradient is turned back by the same angles; autograd's own would scatter every
    second element, which costs a compiled block on a CPU an eighth of its time."""

    @staticmethod
    def forward(ctx: Any, x_BHSD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_SD, sin_SD)
        return _rotate(x_BHSD, cos_SD, sin_SD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos_SD, sin_SD = ctx.saved_tensors
        return _rotate(gradients[0], cos_SD, -sin_SD), None, None


def _rotate(x_BHSD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    even, odd = x_BHSD[..., 0::2], x_BHSD[..., 1::2]
    return torch.stack((even * cos_SD - odd * sin_SD, even * sin_SD + odd * cos_SD), -1).flatten(-2)


def apply_rope(x_BHSD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Rotate each adjacent pair (2i, 2i+1) of the last axis as a complex number."""
    training = torch.is_grad_enabled() and x_BHSD.requires_grad
    return _Rotation.apply(x_BHSD, cos_SD, sin_SD) if training else _rotate(x_BHSD, cos_SD, sin_SD)


class Attention(nn.Module):
    """Self-attention of all tokens, with rotary embedding where `rope` says so; networks with a mask change `attend`.

    `scale` is 1/sqrt(D), or 1 once a rewrite has folded it into the query rows of `qkv`.
    With `class_query_only`, only the tokens that are read ask; keys and values are still made for all.
    `rotate_q` and `rotate_k` see each head of the rotary-embedded queries and keys; a rewrite may put a rotation there.

    Args:
        tokens: S.
        readers: how many tokens are read behind the last block; they are the first ones.
        norm: of what `proj` takes; nothing where not given.
    """

    #: How what is hidden is hidden: `none`, `multiplied` with the map, or `additive`, to the scores.
    mask = "none"
    soft_mask = 1.0

    def __init__(
        self, dim: int, heads: int, tokens: int, *, rope: bool, readers: int = 1, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.tokens = heads, dim // heads, tokens
        self.rope, self.readers = rope, readers
        self.scale = self.head_dim**-0.5
        self.class_query_only = False
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rotate_q: nn.Module = nn.Identity()
        self.rotate_k: nn.Module = nn.Identity()
        self.qk = MatMul()
        self.pv = MatMul()
        self.norm = norm or nn.Identity()
        self.proj = nn.Linear(dim, dim)

    @property
    def asking(self) -> slice:
        """The tokens that ask."""
        return slice(0, self.readers) if self.class_query_only else slice(None)

    def hidden(self) -> Tensor | None:
        """The mask of the tokens that ask [s, S], to be multiplied or added (see `mask`), where it changes anything."""
        return None

    def tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding: [S, D/2], or of each head [H, S, D/2]."""
        raise NotImplementedError

    def attend(self, scores_BHSS: Tensor) -> Tensor:
        """The attention map, of scores of the tokens that ask."""
        return scores_BHSS.softmax(-1)

    def forward(self, x_BSE: Tensor) -> Tensor:
        B, S, E = x_BSE.shape
        q, k, v = self.qkv(x_BSE).view(B, S, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        asking = self.asking
        q = q[:, :, asking]
        if self.rope:
            cos, sin = self.tables()
            q = apply_rope(q, cos[..., asking, :], sin[..., asking, :])
            k = apply_rope(k, cos, sin)
        q, k = self.rotate_q(q), self.rotate_k(k)
        scores_BHSS = self.qk(q, k.transpose(-2, -1))
        if self.scale != 1.0:
            scores_BHSS = scores_BHSS * self.scale
        out_BSE = self.pv(self.attend(scores_BHSS), v).transpose(1, 2).reshape(B, -1, E)
        return self.proj(self.norm(out_BSE))
