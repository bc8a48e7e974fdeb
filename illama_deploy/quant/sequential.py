"""Quantize a network site after site, so that each is rounded for the inputs that the quantized ones before it give.

What is kept at any time: the residual stream of the calibration images at one block's input (of both networks, where
they are compared), and the moments of the sites that share one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..affine import quantize, scale_of
from ..calib import Moments, collect_moments, rebatch
from ..formats import Format, NumberType
from ..journal import Journal
from ..model.illama import Illama
from ..rounding import RoundedWeight, RoundingMethod, nearest
from .network import quantize_network, restructure_sites
from .reconstruct import Reconstructed, reconstruct_block
from .sites import Site

__all__ = ["quantize_sequentially"]

#: Sites of a block that can be rounded on one run, in the order of computation.
STAGES = (("attn.qkv",), ("attn.qk", "attn.pv", "attn.proj"), ("mlp.fc1", "mlp.fc3"), ("mlp.fc2",))
#: Entry of a reconstructed block in the journal, besides its sites.
ERRORS = "reconstructed"


class _Read(nn.Module):
    """What one level of a UperNet reads of the stream."""

    def __init__(self, model: Illama, level: int) -> None:
        super().__init__()
        _, self.norm, read = model.reads()[level]
        self.name = str(level)
        self.add_module(self.name, read)

    def forward(self, x_BSE: Tensor) -> Tensor:
        return self.get_submodule(self.name)(self.norm(x_BSE[:, :-1]))


class _Head(nn.Module):
    """What follows the last block."""

    def __init__(self, model: Illama) -> None:
        super().__init__()
        self.norm, self.head = model.norm, model.head

    def forward(self, x_BSE: Tensor) -> Tensor:
        return self.head(self.norm(x_BSE[:, -1]))


@torch.no_grad()
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
    reconstruct: int = 0,
    seed: int = 0,
    journal: Journal | None = None,
) -> dict[str, Reconstructed]:
    """Quantize the sites of `model`, in place, as `quantize_network` does, with moments for `method`.

    Args:
        reference: the float network; stays as it is.
        images: gives the calibration images [B, C, H, W], any batch sizes, each time it is called.
        clip: how step sizes are chosen.
        reconstruct: steps of block reconstruction once a block's sites are rounded; 0 for none.
        seed: chooses the images of these steps.
        journal: keeps finished stages and blocks; what it has already is not done again.

    Returns:
        What reconstruction did, by block.
    """
    run = _Run(model, {site.name: site for site in sites}, thresholds, formats, method, clip, journal)
    beside = method.needs_reference
    if "patch_embed.proj" in run.sites:
        twin = reference.patch_embed if beside else None
        twin_images = rebatch(images()) if beside else None
        run.stage(model.patch_embed, "patch_embed.", ("proj",), rebatch(images()), twin, twin_images)
    stream = [_embed(model, x) for x in rebatch(images())]
    float_stream = [_embed(reference, x) for x in rebatch(images())] if beside or reconstruct else []
    reconstructed: dict[str, Reconstructed] = {}
    dense = model.config.task == "segmentation"
    for i, (block, twin_block) in enumerate(zip(model.blocks, reference.blocks, strict=True)):
        name = f"blocks.{i}"
        inside = [site for site in run.sites if site.startswith(f"{name}.")]
        finished = run.recall(name, inside) if reconstruct and inside else None
        if finished is None:
            for names in STAGES:
                run.stage(block, f"{name}.", names, stream, *((twin_block, float_stream) if beside else (None, None)))
        _advance(twin_block, float_stream)
        if finished is not None:
            reconstructed[name] = Reconstructed(*finished[ERRORS].tolist())
        elif reconstruct and inside:
            reconstructed[name] = reconstruct_block(
                block, twin_block, stream, float_stream, steps=reconstruct, seed=seed, name=name
            )
            run.keep(name, inside, {ERRORS: torch.tensor(reconstructed[name], dtype=torch.float64)})
        _advance(block, stream)
        if dense and i in model.config.levels:
            level = model.config.levels.index(i)
            twin_read = (_Read(reference, level), float_stream) if beside else (None, None)
            run.stage(_Read(model, level), "head.reads.", (str(level),), stream, *twin_read)
    for name in run.sites:
        # Convolutions: their second moments would be those of whole patches, nine times as wide.
        if dense and name.startswith("head.") and not name.startswith("head.reads."):
            run.quantize(name, partial(_nearest, clip))
    if "head" in run.sites:
        twin_head = (_Head(reference), float_stream) if beside else (None, None)
        run.stage(_Head(model), "", ("head",), stream, *twin_head)
    return reconstructed


@dataclass(frozen=True)
class _Run:
    """What stays the same from stage to stage."""

    model: Illama
    sites: Mapping[str, Site]
    thresholds: Mapping[str, float]
    formats: Mapping[str, Format]
    method: RoundingMethod
    clip: str
    journal: Journal | None

    def stage(
        self,
        part: nn.Module,
        prefix: str,
        names: Sequence[str],
        chunks: Iterable[Tensor],
        twin: nn.Module | None,
        twin_chunks: Iterable[Tensor] | None,
    ) -> None:
        """Round the sites of one stage on what `part` makes of its inputs."""
        chosen = [name for name in names if prefix + name in self.sites]
        weighted = {name: self._quantizer(prefix + name) for name in chosen if not self.sites[prefix + name].is_product}
        # Products come first in their stage: they have no weights, and change what the others see.
        for name in chosen:
            if name not in weighted:
                self.quantize(prefix + name, _no_weight)
        full_names = [prefix + name for name in weighted]
        if not weighted or self.recall(full_names[0], full_names) is not None:
            return
        moments = collect_moments(part, weighted, chunks, reference=twin, reference_chunks=twin_chunks, prefix=prefix)
        for name in weighted:
            self.quantize(prefix + name, partial(_round, self.method, self.clip, moments[name]))
        self.keep(full_names[0], full_names)

    def recall(self, name: str, sites: Sequence[str]) -> dict[str, Tensor] | None:
        """Put back sites that an earlier run has finished; None where there is nothing under that name."""
        tensors = self.journal.get(name) if self.journal is not None else None
        if tensors is not None:
            restructure_sites(self.model, {site: self.formats[site] for site in sites})
            for site in sites:
                state = {key.removeprefix(f"{site}:"): t for key, t in tensors.items() if key.startswith(f"{site}:")}
                self.model.get_submodule(site).load_state_dict(state)
        return tensors

    def keep(self, name: str, sites: Sequence[str], more: Mapping[str, Tensor] | None = None) -> None:
        """Enter finished sites into the journal."""
        if self.journal is not None:
            states = {site: self.model.get_submodule(site).state_dict() for site in sites}
            tensors = {f"{site}:{key}": tensor for site, state in states.items() for key, tensor in state.items()}
            self.journal.put(name, {**tensors, **(more or {})})

    def quantize(self, site: str, rounding: Callable[..., RoundedWeight]) -> None:
        """Quantize one site."""
        quantize_network(self.model, [self.sites[site]], self.thresholds, self.formats, rounding)

    def _quantizer(self, site: str) -> Callable[[Tensor], Tensor]:
        """What a site's activation quantizer makes of its input."""
        kind = self.formats[site].activations
        if kind is None:
            return lambda x: x
        if self.formats[site].dynamic:
            return lambda x: _fake(x, scale_of(x.abs().amax(-1, keepdim=True), kind), kind)
        return lambda x: _fake(x, scale_of(self.thresholds[f"{site}/input"], kind), kind)


def _fake(x: Tensor, scale: Tensor, dtype: NumberType) -> Tensor:
    return quantize(x, scale, dtype) * scale


def _round(
    method: RoundingMethod, clip: str, moments: Moments, weight: Tensor, dtype: NumberType, group: int | None
) -> RoundedWeight:
    return method.round(weight, dtype, clip=clip, group=group, moments=moments)


def _nearest(clip: str, weight: Tensor, dtype: NumberType, group: int | None) -> RoundedWeight:
    return nearest(weight, dtype, clip=clip, group=group)


def _no_weight(weight: Tensor, dtype: NumberType, group: int | None) -> RoundedWeight:
    raise AssertionError("a product of activations has no weight")


def _embed(model: Illama, images: Tensor) -> Tensor:
    """The residual stream at the first block."""
    x = model.patch_embed(images)
    return torch.cat((x, model.cls_token.expand(len(x), -1, -1)), 1) + model.pos_embed


def _advance(block: nn.Module, stream: list[Tensor]) -> None:
    for i, x in enumerate(stream):
        stream[i] = block(x)
