"""Even out the ranges of queries and keys, rotary pair by rotary pair, for products of attention with one step each.

    c = sqrt(max|k| / max|q|) of the pair,   q · c,   k / c

What is loud in q and quiet in k sets the step size of all of q without need; afterwards both have the same range. A
factor common to the two channels of a pair commutes with the rotary embedding, so qkv's rows and biases carry it. A
rotation within the pair would commute too, but the embedding itself turns each pair by every angle already.

Source: van Breugel et al., *FPTQuant* (arXiv 2506.04985), its merged pre-RoPE transform.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.network import Network
from .parts import attentions, linear
from .rewrite import Observations, Rewrite

__all__ = ["SCALE_ROTARY_PAIRS", "scale_pairs"]

SMALLEST = 1e-5  # as for channels in `smooth`


@torch.no_grad()
def scale_pairs(qkv: nn.Linear, scale: Tensor) -> None:
    """Multiply pairs of q by scale, float64 [H, D/2], and divide those of k by it."""
    queries = scale.repeat_interleave(2, -1).flatten()
    rows = torch.cat((queries, 1 / queries))
    for tensor in (qkv.weight, qkv.bias):
        part = tensor[: len(rows)]
        part.copy_(part.double() * rows.view(-1, *[1] * (part.ndim - 1)))


def _balance(model: Network, observations: Observations) -> None:
    for parts, attention in attentions(model):
        q, k = parts.rotate_q, parts.rotate_k
        shape = (attention.heads, -1, 2)
        q_HP, k_HP = (observations.maxima(x).view(shape).amax(-1).double().clamp(SMALLEST) for x in (q, k))
        scale = (k_HP / q_HP).sqrt()
        scale_pairs(linear(model, parts.qkv), scale)
        observations.divided(q, 1 / scale.repeat_interleave(2, -1))
        observations.divided(k, scale.repeat_interleave(2, -1))


SCALE_ROTARY_PAIRS = Rewrite("scale_rotary_pairs", balance=_balance)
