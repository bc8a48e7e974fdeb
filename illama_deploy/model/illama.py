"""iLLaMA: a LLaMA-shaped vision transformer.

After *Adapting LLaMA Decoder to Vision Transformer* (arXiv 2404.06773v4) and the authors' released code, whose
state-dict keys load here as they are. Three things differ from what one would write by habit, and released
weights need each of them:

- the class token comes **last**, so that under causal attention it sees every image token;
- the causal mask **multiplies** the attention map **after** softmax, and rows are not renormalised
  (the paper's Eq. 1 writes the additive -inf form; the released code and weights use this one);
- rotary embedding turns **adjacent** pairs (2i, 2i+1), the class token standing at position N.

With a UperNet for a head (`IllamaConfig.head_width`) every image token is read instead of the class token, which stays
in the sequence: it sees everything and nothing sees it, but for softmax's denominators.

`IllamaConfig` can also express the steps of the paper's road from ViT to iLLaMA (its *variations*).

Shapes in names: B batch, H heads, S sequence (N image tokens + 1), D head dimension, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, rope_table
from .config import IllamaConfig, swiglu_hidden
from .network import Network
from .norm import NORM_EPS, RMSNorm
from .patch_embed import PatchEmbed
from .structure import AttentionParts, BlockParts, Embedding, FfnParts, Outlet, Read, Structure
from .upernet import LEVELS, UperNet

__all__ = [
    "Block",
    "CausalAttention",
    "GeluMlp",
    "Illama",
    "IllamaConfig",
    "SwiGLU",
    "swiglu_hidden",
]

#: What an additive mask adds to the scores that it hides: softmax makes 0 of them, as of -inf, and float16 holds it.
MASKED = -3e4


class CausalAttention(Attention):
    """Attention under the multiplied mask (or another, see `IllamaConfig.mask`), turned along the sequence."""

    cos_SD: Tensor
    sin_SD: Tensor
    mask_SS: Tensor

    def __init__(self, config: IllamaConfig) -> None:
        super().__init__(config.dim, config.heads, config.tokens, rope=config.positions != "learned")
        self.mask, self.class_index = config.mask, config.class_index
        cos, sin = rope_table(config.tokens, config.head_dim)
        self.register_buffer("cos_SD", cos, persistent=False)
        self.register_buffer("sin_SD", sin, persistent=False)
        self.register_buffer("mask_SS", torch.empty(config.tokens, config.tokens), persistent=False)
        self.set_soft_mask(0.0)

    def set_soft_mask(self, ratio: float) -> None:
        """Let `ratio` of what the mask hides through. The buffer changes in place: a compiled graph stays valid."""
        self.soft_mask = float(ratio)
        visible = torch.ones_like(self.mask_SS)
        if self.mask != "none":
            visible = visible.tril()
        if self.mask == "modified":
            visible[self.class_index] = 1.0
        mask = ratio + (1 - ratio) * visible
        self.mask_SS.copy_(mask.log().clamp(min=MASKED) if self.mask == "additive" else mask)

    @property
    def asking(self) -> slice:
        """The tokens that ask."""
        if not self.class_query_only:
            return slice(None)
        return slice(self.tokens - 1, None) if self.class_index else slice(0, 1)

    def hidden(self) -> Tensor | None:
        """The mask of the tokens that ask [s, S], where it changes anything."""
        mask = self.mask_SS[self.asking]
        return None if bool((mask == (0 if self.mask == "additive" else 1)).all()) else mask

    def tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [S, D/2]."""
        return self.cos_SD, self.sin_SD

    def attend(self, scores_BHSS: Tensor) -> Tensor:
        """The masked map."""
        if self.mask == "additive":
            return (scores_BHSS + self.mask_SS[self.asking]).softmax(-1)
        return scores_BHSS.softmax(-1) * self.mask_SS[self.asking]


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


class GeluMlp(nn.Module):
    """fc2(gelu(fc1 x)), with biases: what ViT has. A rewrite may put a rotation of the hidden channels at `rotate`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.rotate: nn.Module = nn.Identity()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.rotate(F.gelu(self.fc1(x))))


def _norm(config: IllamaConfig) -> nn.Module:
    return RMSNorm(config.dim) if config.norm == "rms" else nn.LayerNorm(config.dim, eps=NORM_EPS)


def _mlp(config: IllamaConfig) -> nn.Module:
    return (SwiGLU if config.ffn == "swiglu" else GeluMlp)(config.dim, config.hidden)


class Block(nn.Module):
    """x += attn(norm1(x)); x += mlp(norm2(x))."""

    def __init__(self, config: IllamaConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        from timm.layers import DropPath

        self.norm1 = _norm(config)
        self.attn = CausalAttention(config)
        self.norm2 = _norm(config)
        self.mlp = _mlp(config)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BSE: Tensor) -> Tensor:
        attended = self.drop_path(self.attn(self.norm1(x_BSE)))
        # With `class_query_only` the residual of the class token alone goes on.
        x_BSE = x_BSE[:, self.attn.asking] + attended
        return x_BSE + self.drop_path(self.mlp(self.norm2(x_BSE)))


def _block_parts(name: str, config: IllamaConfig) -> BlockParts:
    attn, mlp = f"{name}.attn", f"{name}.mlp"
    up, gate = (f"{mlp}.fc3", f"{mlp}.fc1") if config.ffn == "swiglu" else (f"{mlp}.fc1", None)
    return BlockParts(
        name,
        AttentionParts(
            attn,
            qkv=f"{attn}.qkv",
            scores=f"{attn}.qk",
            mix=f"{attn}.pv",
            proj=f"{attn}.proj",
            rotate_q=f"{attn}.rotate_q",
            rotate_k=f"{attn}.rotate_k",
        ),
        FfnParts(
            mlp, up=up, down=f"{mlp}.fc2", rotate=f"{mlp}.rotate", gate=gate, activation="silu" if gate else "gelu"
        ),
        attention_read=Read(f"{name}.norm1", (f"{attn}.qkv",)),
        ffn_read=Read(f"{name}.norm2", (gate, up) if gate else (up,)),
    )


class Illama(Network):
    """iLLaMA, with a head of images or a UperNet."""

    config: IllamaConfig
    blocks: Sequence[Block]
    head: nn.Linear | UperNet

    def __init__(self, config: IllamaConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.classes
        self.num_features = self.embed_dim = self.head_hidden_size = config.dim  # timm's names
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        rates = [drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)  # type: ignore[assignment]
        if config.head_width:
            self.head = UperNet(config, [_norm(config) for _ in range(LEVELS)])
        else:
            self.norm = _norm(config)
            self.head = self._classifier(config.classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors do: truncated normal of deviation 0.02, zero biases; a UperNet as torch does."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        own = set(self.head.modules()) if isinstance(self.head, UperNet) else set()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in own:
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.positions == "rope":
            nn.init.zeros_(self.pos_embed.requires_grad_(False))

    def _classifier(self, classes: int) -> nn.Linear:
        return nn.Linear(self.config.dim, classes) if classes else cast(nn.Linear, nn.Identity())

    @property
    def structure(self) -> Structure:
        """What the network is made of."""
        return Structure(
            Embedding("patch_embed.proj", "cls_token", "pos_embed"),
            tuple(_block_parts(f"blocks.{i}", self.config) for i in range(self.config.depth)),
            self.outlets,
            class_index=self.config.class_index,
        )

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        """What leads from the residual stream out of the network."""
        if not isinstance(self.head, UperNet):
            return (Outlet(Read("norm", ("head",)), self.config.depth - 1, "class"),)
        reads = ((Read(f"head.norms.{i}", (f"head.reads.{i}",)), at) for i, at in enumerate(self.config.levels))
        return tuple(Outlet(read, at, "image") for read, at in reads)

    @property
    def classifiers(self) -> tuple[nn.Module, ...]:
        """The layer whose output is the logits."""
        return (self.get_classifier(),)

    def set_class_query_only(self, alone: bool) -> None:
        """Let the class token alone ask in the last block: the same logits, where nothing but it is read."""
        self.blocks[-1].attn.class_query_only = alone

    @property
    def soft_mask(self) -> float:
        """The share of the masked-out attention that is let through."""
        return self.blocks[0].attn.soft_mask

    def set_soft_mask(self, ratio: float) -> None:
        """Let `ratio` (1: bidirectional, 0: causal) of the masked-out attention through, in every block."""
        for block in self.blocks:
            block.attn.set_soft_mask(ratio)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone (timm's convention)."""
        return {"pos_embed", "cls_token"}

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        """The residual stream [B, S, E] that the first block reads."""
        x_BNE = self.patch_embed(images_BCHW)
        cls_B1E = self.cls_token.expand(len(x_BNE), -1, -1)
        first = self.config.class_token == "first"
        return torch.cat((cls_B1E, x_BNE) if first else (x_BNE, cls_B1E), 1) + self.pos_embed

    def stream(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield the residual stream [B, S, E] after each block."""
        x_BSE = self.embed(images_BCHW)
        for block in self.blocks:
            x_BSE = block(x_BSE)
            yield x_BSE

    def decode(self, stream: Iterable[Tensor]) -> Tensor:
        """Logits from what `stream` yields."""
        if not isinstance(self.head, UperNet):
            for x_BSE in stream:  # noqa: B007
                pass
            return self.head(self.norm(x_BSE[:, self.config.class_index]))
        return self.head(
            [x_BSE[:, self.config.image_tokens] for i, x_BSE in enumerate(stream) if i in self.config.levels]
        )

    # --- timm's interface, beside what everything here uses

    def forward_features(self, images_BCHW: Tensor) -> Tensor | list[Tensor]:
        """What `forward_head` takes: every token behind the last norm [B, S, E]; of a UperNet, the image tokens
        [B, N, E] of each level."""
        if isinstance(self.head, UperNet):
            return [
                x[:, self.config.image_tokens]
                for i, x in enumerate(self.stream(images_BCHW))
                if i in self.config.levels
            ]
        for x_BSE in self.stream(images_BCHW):  # noqa: B007
            pass
        return self.norm(x_BSE)

    def forward_head(self, features: Tensor | list[Tensor], pre_logits: bool = False) -> Tensor:
        """Logits from `forward_features`; with `pre_logits`, the class token [B, E] that the classifier reads."""
        if isinstance(self.head, UperNet):
            if pre_logits:
                raise TypeError("a UperNet has no features of the whole image")
            return self.head(features)
        token_BE = cast(Tensor, features)[:, self.config.class_index]
        return token_BE if pre_logits else self.head(token_BE)

    def get_classifier(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.head.classifier if isinstance(self.head, UperNet) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new layer, initialised as for training, in the classifier's place; 0 classes leave it out."""
        if global_pool not in (None, "", "token"):
            raise ValueError(f"the class token is read, and nothing pooled: global_pool {global_pool!r} does not fit")
        if isinstance(self.head, UperNet) and not num_classes:
            raise ValueError("a UperNet needs at least one class")
        old = self.get_classifier()
        place = next(self.parameters())
        self.config = replace(self.config, classes=num_classes)
        self.num_classes = num_classes
        if isinstance(self.head, UperNet):
            new: nn.Module = nn.Conv2d(self.config.head_width, num_classes, 1)
            self.head.classifier = cast(nn.Conv2d, new)
        else:
            new = self.head = self._classifier(num_classes)
            if num_classes:
                nn.init.trunc_normal_(new.weight, std=0.02)
                nn.init.zeros_(new.bias)
        new.to(device=place.device, dtype=place.dtype).train(old.training)
