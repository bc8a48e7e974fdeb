"""Modules of a network by the names in its structure, with the types that rewrites change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from ..model.attention import Attention
from ..model.network import Network
from ..model.norm import RMSNorm
from ..model.structure import AttentionParts, Read

__all__ = ["attentions", "linear", "norm_and_readers"]


def linear(model: Network, name: str) -> nn.Linear:
    """The Linear layer of that name."""
    return cast(nn.Linear, model.get_submodule(name))


def attentions(model: Network) -> Iterator[tuple[AttentionParts, Attention]]:
    """Each block's attention: its parts, and the module that knows heads and scale."""
    for block in model.structure.blocks:
        yield block.attention, cast(Attention, model.get_submodule(block.attention.name))


def norm_and_readers(model: Network, read: Read) -> tuple[RMSNorm, dict[str, nn.Linear]]:
    """A norm, and the Linear layers that read it, by name."""
    return cast(RMSNorm, model.get_submodule(read.norm)), {name: linear(model, name) for name in read.linears}
