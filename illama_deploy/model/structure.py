"""What a network is made of, as a value that it gives: for everything that changes, measures or writes networks down.

Modules stand in it by their names, since rewrites and quantization put others in their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AttentionParts",
    "BlockParts",
    "Embedding",
    "FfnParts",
    "Outlet",
    "Read",
    "ScalePair",
    "Structure",
    "image_tokens",
]


def image_tokens(class_index: int, others: int = 1) -> slice:
    """Where the image tokens stand in a sequence whose class token is the first (0) or the last (-1).

    Args:
        others: tokens on that side that are no image tokens: the class token and registers.
    """
    return slice(None, -others) if class_index else slice(others, None)


@dataclass(frozen=True)
class Read:
    """A norm of the residual stream, and the Linear layers that read what it gives.

    Attributes:
        linears: they share one input.
    """

    norm: str
    linears: tuple[str, ...]

    @property
    def place(self) -> str:
        """The module at which the shared input is looked at."""
        return self.linears[0]


@dataclass(frozen=True)
class ScalePair:
    """Two Linear layers that may trade scale: what the first puts out may be divided, channel by channel, if the
    columns of the second are multiplied.

    Attributes:
        place: where the channels are looked at; an online rotation may stand there.
    """

    first: str
    second: str
    place: str


@dataclass(frozen=True)
class AttentionParts:
    """Self-attention.

    Attributes:
        name: the module that knows heads, their size, scale, mask and rotary tables.
        qkv: rows of queries, then of keys, then of values, each head after head.
        scores: the product of queries and keys.
        mix: the product of the attention map and values.
        rotate_q, rotate_k: where an online rotation of each head of the queries and keys may stand.
        norm: a norm of what `proj` takes.
    """

    name: str
    qkv: str
    scores: str
    mix: str
    proj: str
    rotate_q: str
    rotate_k: str
    norm: str | None = None


@dataclass(frozen=True)
class FfnParts:
    """down(rotate(act(gate x) * up x)), or down(rotate(act(up x))) without a gate.

    Attributes:
        rotate: where an online rotation of the hidden channels may stand.
        activation: a name of `activations.ACTIVATIONS`.
        norm: a norm of what `rotate` takes.
    """

    name: str
    up: str
    down: str
    rotate: str
    gate: str | None = None
    activation: str = "silu"
    norm: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Layers that read the norm in front."""
        return (self.up,) if self.gate is None else (self.gate, self.up)


@dataclass(frozen=True)
class BlockParts:
    """A pre-norm block: x += scale * attention(norm x); x += scale * ffn(norm x).

    Attributes:
        scales: what multiplies each channel of what the layers of `writes` put out, where there is such a thing.
    """

    name: str
    attention: AttentionParts
    ffn: FfnParts
    attention_read: Read
    ffn_read: Read
    scales: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[Read, ...]:
        """What reads the stream, in the order of computation."""
        return self.attention_read, self.ffn_read

    @property
    def inner_reads(self) -> tuple[Read, ...]:
        """Norms inside a branch, which do not read the stream."""
        found = ((self.attention.norm, self.attention.proj), (self.ffn.norm, self.ffn.down))
        return tuple(Read(norm, (linear,)) for norm, linear in found if norm is not None)

    @property
    def writes(self) -> tuple[str, ...]:
        """Layers whose output is added to the stream."""
        return self.attention.proj, self.ffn.down

    @property
    def pairs(self) -> tuple[ScalePair, ...]:
        """A gated product is linear in `up`; behind an activation or a norm nothing is."""
        if self.ffn.gate is None or self.ffn.norm is not None:
            return ()
        return (ScalePair(self.ffn.up, self.ffn.down, self.ffn.rotate),)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Sites that can be rounded on one run of the block, in the order of computation."""
        attention, ffn = self.attention, self.ffn
        return (
            (attention.qkv,),
            (attention.scores, attention.mix, attention.proj),
            ffn.reads,
            (ffn.down,),
        )


@dataclass(frozen=True)
class Embedding:
    """What the stream starts from: patches, tokens that are not of the image, and positions added to both.

    Attributes:
        patches: a convolution whose stride is its kernel.
        others: a parameter [1, others, E]: the class token, and registers behind it.
        positions: a parameter [1, S, E].
        entry: a norm in front of the first block, and the layer behind it, which writes the stream then.
    """

    patches: str
    others: str | None
    positions: str | None
    entry: Read | None = None

    @property
    def constants(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(filter(None, (self.others, self.positions)))


@dataclass(frozen=True)
class Outlet:
    """What reads the stream behind a block and leads out of the network.

    Attributes:
        block: the number of the block behind which it reads.
        tokens: which of them it reads; `second` is the one behind the class token.
        mean: whether the tokens are averaged, before the norm or behind it.
    """

    read: Read
    block: int
    tokens: Literal["class", "second", "image"]
    mean: Literal["no", "before", "after"] = "no"


@dataclass(frozen=True)
class Structure:
    """A whole network.

    Attributes:
        outlets: in the order of their blocks.
        class_index: where the class token stands in the sequence, 0 or -1.
        others: how many tokens are not of the image; they stand where the class token stands.
    """

    embedding: Embedding
    blocks: tuple[BlockParts, ...]
    outlets: tuple[Outlet, ...]
    class_index: int
    others: int = 1

    @property
    def image_tokens(self) -> slice:
        """Where the image tokens stand in the sequence."""
        return image_tokens(self.class_index, self.others)

    def tokens_of(self, outlet: Outlet) -> int | slice:
        """Where what an outlet reads stands in the sequence."""
        if outlet.tokens == "image":
            return self.image_tokens
        return 1 if outlet.tokens == "second" else self.class_index

    @property
    def starts(self) -> tuple[str, ...]:
        """Layers that write the residual stream first."""
        entry = self.embedding.entry
        return (self.embedding.patches,) if entry is None else entry.linears

    @property
    def constants(self) -> tuple[str, ...]:
        """Parameters that are part of the residual stream."""
        return self.embedding.constants if self.embedding.entry is None else ()

    @property
    def writes(self) -> tuple[str, ...]:
        """Layers that write the residual stream."""
        return *self.starts, *(name for block in self.blocks for name in block.writes)

    @property
    def reads(self) -> tuple[Read, ...]:
        """All that read the residual stream."""
        inside = (read for block in self.blocks for read in block.reads)
        return *inside, *(outlet.read for outlet in self.outlets)

    @property
    def other_reads(self) -> tuple[Read, ...]:
        """Norms of something else than the residual stream."""
        entry = self.embedding.entry
        return *(() if entry is None else (entry,)), *(read for block in self.blocks for read in block.inner_reads)

    @property
    def pairs(self) -> tuple[ScalePair, ...]:
        """All pairs of layers that may trade scale."""
        return tuple(pair for block in self.blocks for pair in block.pairs)

    def shared_inputs(self, prefix: str = "") -> list[tuple[str, ...]]:
        """Linear layers that take one tensor, where there are several: their names behind a prefix, of those that have
        it."""
        return [
            tuple(name.removeprefix(prefix) for name in read.linears)
            for read in self.reads
            if len(read.linears) > 1 and all(name.startswith(prefix) for name in read.linears)
        ]
