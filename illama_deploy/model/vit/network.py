"""A pre-norm vision transformer, with what tells its kinds apart as options.

    x += scale * attention(norm x);  x += scale * ffn(norm x)

The function is timm's `VisionTransformer` and `Eva` in evaluation mode. Parameters differ in four ways, so that one
structure serves all of them (`from_timm` translates): queries, keys and values are one layer with a bias, a gated FFN
has two layers in front, rotary pairs are adjacent, and where there is no classifier, or a norm in front of the first
block, an identity stands behind it as a layer that rewrites may change.

Shapes in names: B batch, H heads, S sequence (class token, registers, image tokens), D head dimension, E embedding
dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..activations import ACTIVATIONS
from ..attention import Attention
from ..network import Network
from ..norm import RMSNorm
from ..patch_embed import PatchEmbed
from ..structure import AttentionParts, BlockParts, Embedding, FfnParts, Outlet, Read, Structure
from ..upernet import LEVELS, UperNet
from .config import VitConfig

__all__ = ["Vit"]


def _norm(config: VitConfig, width: int) -> nn.Module:
    return (nn.LayerNorm if config.norm == "layer" else RMSNorm)(width, config.eps)


class _SharedRotary(nn.Module):
    """Tables that all blocks share: cosines and sines, [S, D/2]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.register_buffer("cos", torch.ones(config.tokens, config.head_dim // 2))
        self.register_buffer("sin", torch.zeros(config.tokens, config.head_dim // 2))

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


class _MixedRotary(nn.Module):
    """Angles that are linear in column and row, by learned frequencies of each head.

    Source: Heo et al., *Rotary Position Embedding for Vision Transformer* (arXiv 2403.13298), RoPE-Mixed.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.grid, self.others = config.grid, config.others
        self.frequencies = nn.Parameter(torch.zeros(2, config.heads, config.head_dim // 2))

    def tables(self) -> tuple[Tensor, Tensor]:
        """[H, S, D/2] each."""
        frequencies, (rows, columns) = self.frequencies.float(), self.grid
        place = torch.arange(rows * columns, device=frequencies.device)
        x, y = (place % columns).float(), torch.div(place, columns, rounding_mode="floor").float()
        angles = x[:, None] * frequencies[0][:, None] + y[:, None] * frequencies[1][:, None]
        angles = nn.functional.pad(angles, (0, 0, self.others, 0))
        return angles.cos().to(self.frequencies.dtype), angles.sin().to(self.frequencies.dtype)


class _Attention(Attention):
    def __init__(self, config: VitConfig, shared: _SharedRotary | None) -> None:
        readers = 2 if config.pool == "both" else 1
        norm = _norm(config, config.dim) if config.attention_norm else None
        super().__init__(
            config.dim, config.heads, config.tokens, rope=config.rotary != "none", readers=readers, norm=norm
        )
        self.rotary = _MixedRotary(config) if config.rotary == "mixed" else None
        # Not as a submodule: it is the network's, and stands in its state once.
        object.__setattr__(self, "shared", shared)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [S, D/2] or [H, S, D/2]."""
        return (self.rotary or cast(_SharedRotary, self.shared)).tables()


class _Ffn(nn.Module):
    """fc2(rotate(norm(act(fc1 x) * fc3 x))), or fc2(rotate(norm(act(fc1 x))))."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.fc1 = nn.Linear(config.dim, config.hidden)
        self.fc3 = nn.Linear(config.dim, config.hidden) if config.gated else None
        self.norm = _norm(config, config.hidden) if config.ffn_norm else nn.Identity()
        self.rotate: nn.Module = nn.Identity()
        self.fc2 = nn.Linear(config.hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = ACTIVATIONS[self.activation](self.fc1(x))
        if self.fc3 is not None:
            hidden = hidden * self.fc3(x)
        return self.fc2(self.rotate(self.norm(hidden)))


class _LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, config: VitConfig, shared: _SharedRotary | None, drop_path: float) -> None:
        super().__init__()
        self.norm1 = _norm(config, config.dim)
        self.attn = _Attention(config, shared)
        self.ls1 = _LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.norm2 = _norm(config, config.dim)
        self.mlp = _Ffn(config)
        self.ls2 = _LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BSE: Tensor) -> Tensor:
        attended = self.drop_path(self.ls1(self.attn(self.norm1(x_BSE))))
        # With `class_query_only` the residual of the tokens that are read alone goes on.
        x_BSE = x_BSE[:, self.attn.asking] + attended
        return x_BSE + self.drop_path(self.ls2(self.mlp(self.norm2(x_BSE))))


class _Entry(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm = _norm(config, config.dim)
        self.write = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.norm(x))


class Vit(Network):
    """A pre-norm vision transformer, with a head of images or a UperNet."""

    config: VitConfig
    blocks: Sequence[_Block]

    def __init__(self, config: VitConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.classes
        self.num_features = self.embed_dim = self.head_hidden_size = config.dim  # timm's names
        self.patch_embed = PatchEmbed(config)
        if config.others:
            self.other_tokens = nn.Parameter(torch.zeros(1, config.others, config.dim))
        if config.positions:
            self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.rotary = _SharedRotary(config) if config.rotary == "shared" else None
        self.entry = _Entry(config) if config.entry else nn.Identity()
        rates = [drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(_Block(config, self.rotary, rate) for rate in rates)  # type: ignore[assignment]
        if config.head_width:
            self.head: nn.Module = UperNet(config, [_norm(config, config.dim) for _ in range(LEVELS)])
        else:
            self.norm = _norm(config, config.dim)
            self.head = nn.Linear(config.dim, config.classes)
            if config.pool == "both":
                self.norm_second = _norm(config, config.dim)
                self.head_second = nn.Linear(config.dim, config.classes)

    @property
    def structure(self) -> Structure:
        """What the network is made of."""
        config = self.config
        return Structure(
            Embedding(
                "patch_embed.proj",
                "other_tokens" if config.others else None,
                "pos_embed" if config.positions else None,
                Read("entry.norm", ("entry.write",)) if config.entry else None,
            ),
            tuple(_block_parts(f"blocks.{i}", config) for i in range(config.depth)),
            self.outlets,
            class_index=0,
            others=config.others,
        )

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        """What leads from the residual stream out of the network."""
        last = self.config.depth - 1
        if self.config.head_width:
            reads = ((Read(f"head.norms.{i}", (f"head.reads.{i}",)), at) for i, at in enumerate(self.config.levels))
            return tuple(Outlet(read, at, "image") for read, at in reads)
        read = Read("norm", ("head",))
        if self.config.pool == "both":
            second = Read("norm_second", ("head_second",))
            return Outlet(read, last, "class"), Outlet(second, last, "second")
        if self.config.pool == "class":
            return (Outlet(read, last, "class"),)
        return (Outlet(read, last, "image", "after" if self.config.pool == "mean" else "before"),)

    @property
    def classifiers(self) -> tuple[nn.Module, ...]:
        """The layers whose outputs are the logits, or add up to them."""
        if isinstance(self.head, UperNet):
            return (self.head.classifier,)
        return (self.head, self.head_second) if self.config.pool == "both" else (self.head,)

    def set_class_query_only(self, alone: bool) -> None:
        """Let the tokens that are read ask alone in the last block: the same logits, where nothing else is read."""
        self.blocks[-1].attn.class_query_only = alone

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone (timm's convention)."""
        frequencies = {name for name, _ in self.named_parameters() if name.endswith(".frequencies")}
        return {"pos_embed", "other_tokens", *frequencies}

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        """Class token, registers and image tokens with their positions [B, S, E]."""
        x_BSE = self.patch_embed(images_BCHW)
        if self.config.others:
            x_BSE = torch.cat((self.other_tokens.expand(len(x_BSE), -1, -1), x_BSE), 1)
        if self.config.positions:
            x_BSE = x_BSE + self.pos_embed
        return x_BSE

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """The residual stream [B, S, E] that the first block reads."""
        return self.entry(self.tokens(images_BCHW))

    def stream(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield the residual stream [B, S, E] after each block."""
        x_BSE = self.embed(images_BCHW)
        for block in self.blocks:
            x_BSE = block(x_BSE)
            yield x_BSE

    def decode(self, stream: Iterable[Tensor]) -> Tensor:
        """Logits from what `stream` yields."""
        image = slice(self.config.others, None)
        if isinstance(self.head, UperNet):
            return self.head([x_BSE[:, image] for i, x_BSE in enumerate(stream) if i in self.config.levels])
        for x_BSE in stream:  # noqa: B007
            pass
        if self.config.pool == "mean":
            return self.head(self.norm(x_BSE[:, image]).mean(1))
        if self.config.pool == "mean_first":
            return self.head(self.norm(x_BSE[:, image].mean(1)))
        logits = self.head(self.norm(x_BSE[:, 0]))
        return logits + self.head_second(self.norm_second(x_BSE[:, 1])) if self.config.pool == "both" else logits


def _block_parts(name: str, config: VitConfig) -> BlockParts:
    attn, mlp = f"{name}.attn", f"{name}.mlp"
    up, gate = (f"{mlp}.fc3", f"{mlp}.fc1") if config.gated else (f"{mlp}.fc1", None)
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
            norm=f"{attn}.norm" if config.attention_norm else None,
        ),
        FfnParts(
            mlp,
            up=up,
            down=f"{mlp}.fc2",
            rotate=f"{mlp}.rotate",
            gate=gate,
            activation=config.activation,
            norm=f"{mlp}.norm" if config.ffn_norm else None,
        ),
        attention_read=Read(f"{name}.norm1", (f"{attn}.qkv",)),
        ffn_read=Read(f"{name}.norm2", (gate, up) if gate else (up,)),
        scales=(f"{name}.ls1", f"{name}.ls2") if config.layer_scale else (),
    )
