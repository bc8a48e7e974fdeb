"""timm's `Eva`: EVA and EVA-02, DINOv3, and ViTs with rotary embedding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import AttentionRope
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed
from timm.models.eva import Eva, EvaAttention, EvaBlock, checkpoint_filter_fn
from torch import Tensor

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
    with_rotary,
)

__all__ = ["EVA"]


def _read(name: str, model: Any) -> Reading:
    block = model.blocks[0]
    for each in model.blocks:
        require(type(each) is EvaBlock, f"its blocks are {type(each).__name__}s")
    attn = block.attn
    require(type(attn) in (EvaAttention, AttentionRope), f"its attention is a {type(attn).__name__}")
    require(attn.num_heads * attn.head_dim == model.embed_dim, "its heads are wider or narrower than the network")
    groups = {getattr(each.attn, "num_kv_heads", None) or attn.num_heads for each in model.blocks}
    require(groups == {attn.num_heads}, "heads share keys and values (grouped-query attention)")
    require(attn.gate is None, "its attention has a gate")
    require(not present(attn.q_norm) and not present(attn.k_norm), "its queries and keys are normed")
    require(model.attn_pool is None, "its tokens are pooled by attention")
    require((block.gamma_1 is None) == (block.gamma_2 is None), "one branch alone has a LayerScale")
    fields = {
        **read_ffn(block.mlp),
        "heads": attn.num_heads,
        "attention_norm": present(attn.norm),
        "layer_scale": block.gamma_1 is not None,
    }
    learned = tuple(key for key in ("cls_token", "reg_token") if getattr(model, key) is not None)
    common = read_common(name, model, fields, learned)
    rotary, half = model.rope, bool(getattr(attn, "rotate_half", False))
    if rotary is not None:
        kinds = {RotaryEmbeddingCat: "shared", RotaryEmbeddingDinoV3: "shared", RotaryEmbeddingMixed: "mixed"}
        require(type(rotary) in kinds, f"its rotary embedding is {type(rotary).__name__}")
        mixed = type(rotary) is RotaryEmbeddingMixed
        require(not mixed or rotary.grid_indexing == "xy", "its mixed rotary embedding counts rows first")
        common = with_rotary(common, kinds[type(rotary)])
    config = common.config

    def translate(state: State) -> dict[str, Tensor]:
        made = common.translate(state)
        for i, each in enumerate(model.blocks):
            made |= _translate_block(each, state, f"blocks.{i}.", half and rotary is not None)
            if config.rotary == "mixed":
                made[f"blocks.{i}.attn.rotary.frequencies"] = state["rope.freqs"][:, i].contiguous()
        if config.rotary == "shared":
            cos, sin = _tables(rotary, config.grid, config.others, half)
            made["rotary.cos"], made["rotary.sin"] = cos, sin
        like = state[f"{common.last}.weight"]
        return made | (identity("head", like) if config.features else linear(state, "head", "head"))

    return Reading(config, translate)


def _translate_block(block: Any, state: State, name: str, half: bool) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for key in ("norm1", "norm2", "attn.norm"):
        made |= norm(state, name + key, name + key)
    made |= linear(state, f"{name}attn.proj", f"{name}attn.proj")
    for old, new in (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma")):
        if name + old in state:
            made[name + new] = state[name + old]
    made |= translate_ffn(block.mlp, state, f"{name}mlp.", f"{name}mlp.")
    attn = f"{name}attn."
    if f"{attn}qkv.weight" in state:
        weight, bias = linear(state, f"{attn}qkv", "qkv").values()
        if f"{attn}q_bias" in state:
            bias = torch.cat((state[f"{attn}q_bias"], torch.zeros_like(state[f"{attn}v_bias"]), state[f"{attn}v_bias"]))
    else:
        parts = [linear(state, f"{attn}{letter}_proj", letter) for letter in "qkv"]
        weight, bias = (
            torch.cat([part[f"{x}.{kind}"] for part, x in zip(parts, "qkv", strict=True)])
            for kind in ("weight", "bias")
        )
    if half:
        rows = _adjacent(block.attn.num_heads, block.attn.head_dim)
        weight, bias = weight[rows], bias[rows]
    return made | {f"{attn}qkv.weight": weight, f"{attn}qkv.bias": bias}


def _adjacent(heads: int, size: int) -> Tensor:
    """Rows of qkv in an order that brings channels i and i + D/2 of queries and keys, which one angle turns, next to
    each other: int64 [3·H·D]."""
    rows = torch.arange(3 * heads * size).view(3, heads, size)
    paired = rows[:2].view(2, heads, 2, size // 2).transpose(2, 3).reshape(2, heads, size)
    return torch.cat((paired, rows[2:])).flatten()


def _tables(rotary: Any, grid: tuple[int, int], others: int, half: bool) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all tokens, [S, D/2]; those in front of the image tokens are not turned."""
    # As outside training, where coordinates may be drawn at random.
    rotary = copy.deepcopy(rotary).eval()
    if any(buffer.is_meta for buffer in rotary.buffers()):  # they follow from the geometry
        rotary.to_empty(device="cpu").init_non_persistent_buffers()
    # A size that is known keeps its table, which is what timm takes, rounded as it is.
    made = rotary.get_embed(None if rotary.feat_shape is not None else grid)
    sin, cos = made.chunk(2, -1)
    size = sin.shape[-1] // 2
    sin, cos = (sin[:, :size], cos[:, :size]) if half else (sin[:, 0::2], cos[:, 0::2])
    return (
        torch.cat((cos.new_ones(others, size), cos)).contiguous(),
        torch.cat((sin.new_zeros(others, size), sin)).contiguous(),
    )


EVA = Reader(Eva, _read, checkpoint_filter_fn)
