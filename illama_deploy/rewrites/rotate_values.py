"""R2: rotate the values of each head, and proj's columns with them.

Mixing tokens is linear, with the multiplied mask too, so O = (map v) R = map (v R): what enters proj is spread over the
head's channels. The bias of v turns along (mask rows do not sum to 1, so it can't be folded into proj instead).

Source: Ashkboos et al., *QuaRot* (arXiv 2404.00456), stage 1c.
"""

from __future__ import annotations

import torch

from ..model.network import Network
from .hadamard import random_rotation
from .parts import attentions, linear
from .rewrite import Rewrite

__all__ = ["ROTATE_VALUES"]


@torch.no_grad()
def _draw(model: Network, generator: torch.Generator) -> None:
    for parts, attention in attentions(model):
        if parts.norm is not None:  # it mixes the channels of all heads
            continue
        qkv, proj = linear(model, parts.qkv), linear(model, parts.proj)
        size = attention.head_dim
        for head in range(attention.heads):
            rotation = random_rotation(size, generator)
            columns = slice(head * size, (head + 1) * size)
            rows = slice((2 * attention.heads + head) * size, (2 * attention.heads + head + 1) * size)
            qkv.weight[rows] = rotation.T @ qkv.weight[rows].double()
            qkv.bias[rows] = qkv.bias[rows].double() @ rotation
            proj.weight[:, columns] = proj.weight[:, columns].double() @ rotation


ROTATE_VALUES = Rewrite("rotate_values", draw=_draw)
