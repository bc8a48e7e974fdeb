"""How many directions attention maps have: the share of singular values that makes up 80 % of their sum.

The map is what values are multiplied with: after softmax and mask, and quantized where the artifact quantizes it.
Source: *Adapting LLaMA Decoder to Vision Transformer* (arXiv 2404.06773v4), analysis of the causal mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..affine import quantize
from ..errors import ArtifactError, UsageError, parameter
from ..model.attention import Attention
from ..model.network import Network
from ..quant import QuantMatMul

__all__ = ["SHARE", "measure_attention_rank", "parse_mask", "singular_values", "values_to_reach"]

#: Of the singular values' sum.
SHARE = 0.8
#: Shares of the number of singular values at which their cumulative sum is kept: 0 to 1.
AT = np.linspace(0, 1, 41)
#: Named masks, as the share of hidden attention that they let through.
MASKS = {"causal": 0.0, "bidirectional": 1.0}


def parse_mask(text: str) -> float:
    """Name of a mask, or a share in [0, 1], to the share of hidden attention that is let through.

    Raises:
        UsageError: neither.
    """
    try:
        ratio = MASKS[text] if text in MASKS else float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise UsageError(
            f"There is no mask {text!r}.",
            hint=f"Use {parameter(masks='causal')}, bidirectional, or a share such as 0.5.",
        )
    return ratio


def singular_values(maps: Tensor) -> np.ndarray:
    """Cumulative sums of singular values, largest first, as shares of all: maps [..., S, S] to [..., S]."""
    values = np.cumsum(torch.linalg.svdvals(maps.double()).numpy(), -1)
    total: np.ndarray = values[..., -1:]
    return values / np.where(total > 0, total, 1.0)


def values_to_reach(cumulative: np.ndarray, share: float = SHARE) -> np.ndarray:
    """How many of the largest singular values make up that share of their sum [...]; 0 for a map of zeros."""
    # The last bits of a sum decide nothing.
    return np.where(cumulative[..., -1] > 0, (cumulative < share - 1e-9).sum(-1) + 1, 0)


def measure_attention_rank(model: Network, batches: Iterable[Tensor], ratio: float = 0.0) -> dict[str, Any]:
    """Ranks of every layer's and head's attention map, averaged over images.

    Args:
        model: float or quantized; as it was when this returns.
        batches: images [B, C, H, W].
        ratio: of the attention that the causal mask hides, the share that is let through: 1 is bidirectional.

    Returns:
        `share`, `images`, `tokens` (singular values of a map); by layer and head: `rank`, the mean number of singular
        values that reach the share, and `curve`, the mean cumulative share at 0, 2.5, ..., 100 % of the values; and
        `mean`, the mean rank over layers and heads.

    Raises:
        ArtifactError: a map holds NaN or infinity.
    """
    ranks: list[np.ndarray] = []
    curves: list[np.ndarray] = []
    images = 0
    with _seen_maps(model, ratio) as maps:
        for batch in batches:
            maps.clear()
            model(batch)
            if not all(torch.isfinite(one).all() for one in maps):
                raise ArtifactError("Attention maps hold NaN or infinity.", hint="The network itself is damaged.")
            cumulative_BLHS = np.stack([singular_values(one) for one in maps], 1)
            ranks.append(values_to_reach(cumulative_BLHS).sum(0))
            curves.append(_at_shares(cumulative_BLHS).sum(0))
            images += len(batch)
    rank_LH, curve_LHP = np.sum(ranks, 0) / images, np.sum(curves, 0) / images
    return {
        "share": SHARE,
        "images": images,
        "tokens": model.config.tokens,
        "mean": float(np.mean(rank_LH)),
        "rank": rank_LH.tolist(),
        "curve": curve_LHP.round(5).tolist(),
    }


def _at_shares(cumulative: np.ndarray) -> np.ndarray:
    """Cumulative shares at `AT`, between values on straight lines [..., len(AT)]."""
    size = cumulative.shape[-1]
    start = np.concatenate([np.zeros_like(cumulative[..., :1]), cumulative], -1)
    below = np.minimum((AT * size).astype(int), size - 1)
    rest = AT * size - below
    return start[..., below] * (1 - rest) + start[..., below + 1] * rest


@contextmanager
def _seen_maps(model: Network, ratio: float) -> Iterator[list[Tensor]]:
    """Keep the maps [B, H, S, S] of each forward pass, of all tokens, layer by layer, under another mask."""
    seen: list[Tensor] = []
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    before = [(attention.class_query_only, attention.soft_mask) for attention in attentions]

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(_as_multiplied(module, inputs[0]))

    hooks = [attention.pv.register_forward_pre_hook(keep) for attention in attentions]
    try:
        model.set_soft_mask(ratio)
        for attention in attentions:
            # The class token alone asks in the last block; what others would ask changes no logit.
            attention.class_query_only = False
        with torch.inference_mode():
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
        model.set_soft_mask(before[0][1])
        for attention, (class_query_only, _) in zip(attentions, before, strict=True):
            attention.class_query_only = class_query_only


def _as_multiplied(product: nn.Module, map_BHSS: Tensor) -> Tensor:
    if not isinstance(product, QuantMatMul):
        return map_BHSS
    return quantize(map_BHSS, product.a_scale, product.activations) * product.a_scale
