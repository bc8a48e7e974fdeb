"""timm's `VisionTransformer`: ViT, DeiT, DeiT-III, DINOv2, and the image towers of CLIP and SigLIP; and DeiT's
distilled network, which has two tokens to classify by and gives the mean of both."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from .reading import (
    Reader,
    Reading,
    State,
    identity,
    linear,
    norm,
    present,
    read_common,
    read_ffn,
    require,
    translate_ffn,
)

__all__ = ["DISTILLED", "VISION_TRANSFORMER"]


def _read(name: str, model: Any) -> Reading:
    distilled = type(model) is VisionTransformerDistilled
    block = model.blocks[0]
    for each in model.blocks:
        require(type(each) is Block, f"its blocks are {type(each).__name__}s")
        require(type(each.attn) is Attention, f"its attention is a {type(each.attn).__name__}")
    attn = block.attn
    require(attn.num_heads * attn.head_dim == model.embed_dim, "its heads are wider or narrower than the network")
    require(attn.gate is None, "its attention has a gate")
    require(not present(attn.q_norm) and not present(attn.k_norm), "its queries and keys are normed")
    require(getattr(model, "attn_pool", None) is None, "its tokens are pooled by attention")
    fields = {
        **read_ffn(block.mlp),
        "heads": attn.num_heads,
        "attention_norm": present(attn.norm),
        "layer_scale": present(block.ls1),
    }
    # timm's distilled network leaves registers and a norm behind pooling out, where it is made with them.
    require(not (distilled and present(model.fc_norm)), "it has no norm behind its last block")
    found = ("cls_token", "dist_token" if distilled else "reg_token")
    learned = tuple(key for key in found if getattr(model, key) is not None)
    common = read_common(name, model, fields, learned)
    if distilled:
        common = replace(common, config=replace(common.config, pool="both"))
    config = common.config

    def translate(state: State) -> dict[str, Tensor]:
        made = common.translate(state)
        for i, each in enumerate(model.blocks):
            made |= translate_block(each.mlp, state, f"blocks.{i}.")
        heads = {"head": "head", **({"head_dist": "head_second"} if distilled else {})}
        for old, new in heads.items():
            like = state[f"{common.last}.weight"]
            head = identity(new, like) if config.features else linear(state, old, new)
            made |= {key: tensor / len(heads) for key, tensor in head.items()}
        if distilled:
            made |= norm(state, common.last, "norm_second")
        return made

    return Reading(config, translate)


def translate_block(mlp: nn.Module, state: State, block: str) -> dict[str, Tensor]:
    """Tensors of a block, the same keys but for the FFN's."""
    made: dict[str, Tensor] = {}
    for key in ("norm1", "norm2", "attn.norm"):
        made |= norm(state, block + key, block + key)
    for key in ("attn.qkv", "attn.proj"):
        made |= linear(state, block + key, block + key)
    made |= {key: state[key] for key in (f"{block}ls1.gamma", f"{block}ls2.gamma") if key in state}
    return made | translate_ffn(mlp, state, f"{block}mlp.", f"{block}mlp.")


# DeiT-III's LayerScales have names of their own; others have none of these names.
_CONVERT = partial(checkpoint_filter_fn, adapt_layer_scale=True)
VISION_TRANSFORMER = Reader(VisionTransformer, _read, _CONVERT)
DISTILLED = Reader(VisionTransformerDistilled, _read, _CONVERT)
