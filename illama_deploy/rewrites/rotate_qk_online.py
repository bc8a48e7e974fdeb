"""R3: rotate queries and keys of each head, which leaves their products as they are: (q R) (k R)ᵀ = q kᵀ.

The rotary embedding stands between qkv and the product and commutes with no rotation across its pairs, so R, a fixed
Hadamard matrix, is applied behind it at run time. Random signs of pairs do commute; they go into qkv.

Source: Ashkboos et al., *QuaRot* (arXiv 2404.00456), stage 1d.
"""

from __future__ import annotations

import torch

from ..model.network import Network
from .online_rotation import OnlineRotation
from .parts import attentions, linear
from .rewrite import Rewrite
from .scale_rotary_pairs import scale_pairs

__all__ = ["ROTATE_QK_ONLINE"]


def _restructure(model: Network) -> None:
    for parts, attention in attentions(model):
        for place in (parts.rotate_q, parts.rotate_k):
            model.set_submodule(place, OnlineRotation(attention.head_dim, attention.head_dim))


def _draw(model: Network, generator: torch.Generator) -> None:
    for parts, attention in attentions(model):
        pairs = (attention.heads, attention.head_dim // 2)
        scale_pairs(linear(model, parts.qkv), (torch.randint(0, 2, pairs, generator=generator) * 2.0 - 1.0).double())


ROTATE_QK_ONLINE = Rewrite("rotate_qk_online", restructure=_restructure, draw=_draw)
