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
from ..model.network import Network
from ..model.structure import Outlet
from ..rounding import RoundedWeight, RoundingMethod, nearest
from .network import quantize_network, quantized_modules, restructure_sites
from .reconstruct import Reconstructed, reconstruct_block
from .sites import Site

__all__ = ["quantize_sequentially"]

#: Entry of a reconstructed block in the journal, besides its sites.
ERRORS = "reconstructed"


class _Outlet(nn.Module):
    """What reads the stream behind a block and leads out of the network."""

    def __init__(self, model: Network, outlet: Outlet) -> None:
        super().__init__()
        self.tokens, self.mean = model.structure.tokens_of(outlet), outlet.mean
        self.norm = model.get_submodule(outlet.read.norm)
        self.names = [_split(name)[1] for name in outlet.read.linears]
        for name, full in zip(self.names, outlet.read.linears, strict=True):
            self.add_module(name, model.get_submodule(full))

    def forward(self, x_BSE: Tensor) -> None:
        x = x_BSE[:, self.tokens]
        x = self.norm(x.mean(1) if self.mean == "before" else x)
        x = x.mean(1) if self.mean == "after" else x
        for name in self.names:
            self.get_submodule(name)(x)


@torch.no_grad()
def quantize_sequentially(
    model: Network,
    reference: Network,
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
    structure = model.structure
    prefix, name = _split(structure.embedding.patches)
    if structure.embedding.patches in run.sites:
        part = prefix.removesuffix(".")
        twin = reference.get_submodule(part) if beside else None
        twin_images = rebatch(images()) if beside else None
        run.stage(model.get_submodule(part), prefix, (name,), rebatch(images()), twin, twin_images)
    _round_entry(run, reference, images, beside)
    stream = [model.embed(x) for x in rebatch(images())]
    float_stream = [reference.embed(x) for x in rebatch(images())] if beside or reconstruct else []
    reconstructed: dict[str, Reconstructed] = {}
    for i, parts in enumerate(structure.blocks):
        block, twin_block = model.get_submodule(parts.name), reference.get_submodule(parts.name)
        prefix = f"{parts.name}."
        inside = [site for site in run.sites if site.startswith(prefix)]
        finished = run.recall(parts.name, inside) if reconstruct and inside else None
        if finished is None:
            for stage in parts.stages:
                names = [name.removeprefix(prefix) for name in stage]
                run.stage(block, prefix, names, stream, *((twin_block, float_stream) if beside else (None, None)))
        _advance(twin_block, float_stream)
        if finished is not None:
            reconstructed[parts.name] = Reconstructed(*finished[ERRORS].tolist())
        elif reconstruct and inside:
            shared = structure.shared_inputs(prefix)
            reconstructed[parts.name] = reconstruct_block(
                block, twin_block, stream, float_stream, shared=shared, steps=reconstruct, seed=seed, name=parts.name
            )
            run.keep(parts.name, inside, {ERRORS: torch.tensor(reconstructed[parts.name], dtype=torch.float64)})
        _advance(block, stream)
        for outlet in structure.outlets:
            if outlet.block == i:
                prefix = _split(outlet.read.place)[0]
                names = [name.removeprefix(prefix) for name in outlet.read.linears]
                twin_outlet = (_Outlet(reference, outlet), float_stream) if beside else (None, None)
                run.stage(_Outlet(model, outlet), prefix, names, stream, *twin_outlet)
    done = {name for name, _ in quantized_modules(model)}
    for name in run.sites:
        # What stands behind an outlet are convolutions: their second moments would be those of whole patches, nine
        # times as wide.
        if name not in done:
            run.quantize(name, partial(_nearest, clip))
    return reconstructed


@dataclass(frozen=True)
class _Run:
    """What stays the same from stage to stage."""

    model: Network
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


def _round_entry(run: _Run, reference: Network, images: Callable[[], Iterable[Tensor]], beside: bool) -> None:
    """Round what stands between the tokens and the first block, where there is something."""
    entry = run.model.structure.embedding.entry
    if entry is None:
        return
    prefix = _split(entry.place)[0]
    names = [name.removeprefix(prefix) for name in entry.linears]
    part, twin = (network.get_submodule(prefix.removesuffix(".")) for network in (run.model, reference))
    tokens = [run.model.tokens(x) for x in rebatch(images())]
    twin_tokens = [reference.tokens(x) for x in rebatch(images())] if beside else None
    run.stage(part, prefix, names, tokens, twin if beside else None, twin_tokens)


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


def _split(name: str) -> tuple[str, str]:
    """What stands before the last part of a module's name, with its point, and that part."""
    parent, point, last = name.rpartition(".")
    return parent + point, last


def _advance(block: nn.Module, stream: list[Tensor]) -> None:
    for i, x in enumerate(stream):
        stream[i] = block(x)
