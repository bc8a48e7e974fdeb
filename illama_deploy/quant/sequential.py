"""Quantize a network site after site, so that each is rounded for the inputs that the quantized ones before it give.

What is kept at any time: the residual stream of the calibration images at one block's input (of both networks, for a
method that compares with float), and the moments of the sites that share one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..affine import quantize, scale_of
from ..calib import Moments, collect_moments, rebatch
from ..formats import Format, NumberType
from ..model.illama import Illama
from ..rounding import RoundedWeight, RoundingMethod
from .network import quantize_network
from .sites import Site

__all__ = ["quantize_sequentially"]

#: Sites of a block that can be rounded on one run, in the order of computation.
STAGES = (("attn.qkv",), ("attn.qk", "attn.pv", "attn.proj"), ("mlp.fc1", "mlp.fc3"), ("mlp.fc2",))


class _Head(nn.Module):
    """What follows the last block."""

    def __init__(self, model: Illama) -> None:
        super().__init__()
        self.norm, self.head = model.norm, model.head

    def forward(self, x_BSE: Tensor) -> Tensor:
        return self.head(self.norm(x_BSE[:, -1]))


@torch.inference_mode()
def quantize_sequentially(
    model: Illama,
    reference: Illama,
    sites: Sequence[Site],
    thresholds: Mapping[str, float],
    formats: Mapping[str, Format],
    method: RoundingMethod,
    images: Callable[[], Iterable[Tensor]],
    *,
    clip: str = "mse",
) -> None:
    """Quantize the sites of `model`, in place, as `quantize_network` does, with moments for `method`.

    Args:
        reference: the float network; stays as it is.
        images: gives the calibration images [B, C, H, W], any batch sizes, each time it is called.
        clip: how step sizes are chosen.
    """
    by_name = {site.name: site for site in sites}

    def quantizer(name: str) -> Callable[[Tensor], Tensor]:
        kind = formats[name].activations
        if kind is None:
            return lambda x: x
        if formats[name].dynamic:
            return lambda x: _fake(x, scale_of(x.abs().amax(-1, keepdim=True), kind), kind)
        return lambda x: _fake(x, scale_of(thresholds[f"{name}/input"], kind), kind)

    def stage(part: nn.Module, prefix: str, names: Sequence[str], chunks: Iterable[Tensor], twin: nn.Module | None,
              twin_chunks: Iterable[Tensor] | None) -> None:  # fmt: skip
        chosen = [name for name in names if prefix + name in by_name]
        weighted = {name: quantizer(prefix + name) for name in chosen if not by_name[prefix + name].is_product}
        # Products come first in their stage: they have no weights, and change what the others see.
        for name in chosen:
            if name not in weighted:
                quantize_network(model, [by_name[prefix + name]], thresholds, formats, _no_weight)
        if not weighted:
            return
        moments = collect_moments(part, weighted, chunks, reference=twin, reference_chunks=twin_chunks)
        for name in weighted:
            rounding = partial(_round, method, clip, moments[name])
            quantize_network(model, [by_name[prefix + name]], thresholds, formats, rounding)

    beside = method.needs_reference
    if "patch_embed.proj" in by_name:
        twin = reference.patch_embed if beside else None
        twin_images = rebatch(images()) if beside else None
        stage(model.patch_embed, "patch_embed.", ("proj",), rebatch(images()), twin, twin_images)
    stream = [_embed(model, x) for x in rebatch(images())]
    float_stream = [_embed(reference, x) for x in rebatch(images())] if beside else None
    for i, (block, twin_block) in enumerate(zip(model.blocks, reference.blocks, strict=True)):
        for names in STAGES:
            stage(block, f"blocks.{i}.", names, stream, twin_block if beside else None, float_stream)
        _advance(block, stream)
        if float_stream is not None:
            _advance(twin_block, float_stream)
    if "head" in by_name:
        stage(_Head(model), "", ("head",), stream, _Head(reference) if beside else None, float_stream)


def _fake(x: Tensor, scale: Tensor, dtype: NumberType) -> Tensor:
    return quantize(x, scale, dtype) * scale


def _round(
    method: RoundingMethod, clip: str, moments: Moments, weight: Tensor, dtype: NumberType, group: int | None
) -> RoundedWeight:
    return method.round(weight, dtype, clip=clip, group=group, moments=moments)


def _no_weight(weight: Tensor, dtype: NumberType, group: int | None) -> RoundedWeight:
    raise AssertionError("a product of activations has no weight")


def _embed(model: Illama, images: Tensor) -> Tensor:
    """The residual stream at the first block."""
    x = model.patch_embed(images)
    return torch.cat((x, model.cls_token.expand(len(x), -1, -1)), 1) + model.pos_embed


def _advance(block: nn.Module, stream: list[Tensor]) -> None:
    for i, x in enumerate(stream):
        stream[i] = block(x)
