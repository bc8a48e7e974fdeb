"""A float network with what calibration told of it, ready to be quantized; a search does so again and again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ...affine import scale_of
from ...calib import MagnitudeHistogram, Observed, RangeMethod, collect_ranges, range_method
from ...data import Loader
from ...errors import RecipeError, UsageError, parameter
from ...formats import W8A8, Format, IntType
from ...journal import Journal
from ...model.network import Network
from ...preprocessing import Preprocessing
from ...progress import track
from ...quant import (
    Reconstructed,
    Site,
    find_sites,
    input_scales,
    quantize_network,
    quantize_sequentially,
    quantized_modules,
    select_sites,
    trial_product,
)
from ...quant.quality import LOGITS, measure_sqnr
from ...recipe import Recipe
from ...rewrites import apply_rewrites
from ...rounding import rounding_method
from ...versions import cpu, versions

__all__ = [
    "SQNR_IMAGES",
    "TOOLS",
    "Calibrated",
    "calibrate",
    "choose_sites",
    "figures",
    "rewrite_float",
    "site_formats",
]

#: Images on which the manifest's SQNR figures are taken.
SQNR_IMAGES = 64
#: Packages that the numbers depend on.
TOOLS = ("torch", "timm", "torchvision", "numpy", "pillow")


@dataclass(frozen=True)
class Calibrated:
    """A float network after its rewrites, and what calibration told of it: it may be quantized again and again.

    Attributes:
        origin: the checkpoint, as the manifest names it.
        model: the rewritten network; stays as it is.
        choices: each site that the recipe quantizes, and the formats that it may get.
        histograms: of each `SITE/INPUT` that one of them gives fixed step sizes.
        loader: the calibration images.
    """

    origin: Mapping[str, Any]
    preprocessing: Preprocessing
    recipe: Recipe
    loader: Loader
    model: Network
    sites: Sequence[Site]
    choices: Mapping[str, Sequence[Format]]
    histograms: Mapping[str, MagnitudeHistogram]

    def thresholds(self, formats: Mapping[str, Format]) -> dict[str, float]:
        """Clipping threshold of each `SITE/INPUT` with fixed step sizes."""
        method = range_method(self.recipe.range)
        return {
            key: _threshold(method, histogram, formats[site])
            for key, histogram in self.histograms.items()
            if (site := key.partition("/")[0]) in formats and formats[site].is_static
        }

    def journal(self, out: Path) -> Journal | None:
        """Where rounding that goes block by block keeps what it has finished, beside `out`."""
        if not rounding_method(self.recipe.rounding).needs_moments:
            return None
        decides = {
            "recipe": self.recipe.to_dict(),
            "source": self.origin,
            "preprocessing": self.preprocessing.to_dict(),
            "data": [self.loader.source.spec, self.loader.source.split, *self.loader.indices],
            "versions": versions(*TOOLS),
            "cpu": cpu(),
        }
        return Journal(out, decides)

    def quantize(
        self, formats: Mapping[str, Format], description: str = "Rounding", *, journal: Journal | None = None
    ) -> tuple[Network, dict[str, Reconstructed]]:
        """Quantize a copy of the network by the recipe's rounding method, each site in its format.

        Returns:
            The copy, and what block reconstruction did.
        """
        rounding, clip = rounding_method(self.recipe.rounding), self.recipe.weight_clip
        quantized, thresholds = copy.deepcopy(self.model), self.thresholds(formats)
        if not rounding.needs_moments:
            rounded = partial(rounding.round, clip=clip)
            quantize_network(
                quantized, self.sites, thresholds, formats, lambda w, kind, group: rounded(w, kind, group=group)
            )
            return quantized, {}
        reconstructed = quantize_sequentially(
            quantized,
            self.model,
            self.sites,
            thresholds,
            formats,
            rounding,
            lambda: _images(self.loader, description),
            clip=clip,
            reconstruct=self.recipe.reconstruct,
            seed=self.recipe.seed,
            journal=journal,
        )
        return quantized, reconstructed


def calibrate(
    model: Network,
    origin: Mapping[str, Any],
    preprocessing: Preprocessing,
    recipe: Recipe,
    loader: Loader,
    sites: Sequence[Site],
    choices: Mapping[str, Sequence[Format]],
) -> Calibrated:
    """Rewrite a float network, in place, and take the ranges of its activations; see `Calibrated`."""
    rewrite_float(model, recipe, {name: each[0] for name, each in choices.items()}, loader)
    static = {site.name: site.inputs for site in sites if any(f.is_static for f in choices[site.name])}
    histograms = collect_ranges(model, static, _images(loader, "Calibrating ranges")) if static else {}
    return Calibrated(origin, preprocessing, recipe, loader, model, sites, choices, histograms)


def rewrite_float(model: Network, recipe: Recipe, formats: Mapping[str, Format], loader: Loader) -> None:
    """Apply a recipe's rewrites, in place; those that balance channels look at the calibration images.

    Args:
        formats: of the sites, for rewrites that try them.
    """
    product = trial_product(formats, partial(_threshold, range_method(recipe.range)), recipe.weight_clip)
    apply_rewrites(
        model,
        recipe.rewrites,
        lambda rewritten: Observed(rewritten, lambda: _images(loader, "Measuring channels"), product),
        seed=recipe.seed,
    )


def choose_sites(
    model: Network, recipe: Recipe, candidates: Sequence[Format] = ()
) -> tuple[list[Site], dict[str, tuple[Format, ...]]]:
    """The sites that the recipe quantizes, and the formats that each may get.

    Args:
        candidates: for sites that the recipe does not override; its format where none will do.

    Raises:
        RecipeError: a pattern that matches no site; as in `site_formats`.
        UsageError: nothing is left to quantize.
    """
    known = find_sites(model)
    sites = select_sites(
        known, include=recipe.include, exclude=recipe.exclude, attention_products=recipe.attention_products
    )
    if not sites:
        raise UsageError(
            "The recipe leaves no site to quantize.", hint=f"Loosen {parameter('include')} or {parameter('exclude')}."
        )
    formats = site_formats(sites, recipe, known)
    # Of a product the weights' format says nothing, and its step sizes must be fixed.
    products = tuple({f.activations: f for f in reversed(candidates) if f.is_static}.values())[::-1]
    free = {
        site.name: products if site.is_product else tuple(candidates)
        for site in sites
        if not any(fnmatchcase(site.name, pattern) for pattern, _ in recipe.overrides)
    }
    return sites, {name: free.get(name) or (format_,) for name, format_ in formats.items()}


def site_formats(sites: Sequence[Site], recipe: Recipe, known: Sequence[Site]) -> dict[str, Format]:
    """The format of every site. Convolutions with overlap have kernels for integers of fixed step sizes only: where the
    recipe says something else, they are W8A8.

    Args:
        known: all sites of the network; an override may also name one that is left in float.

    Raises:
        RecipeError: an override matches no site, or a product of activations would get a format without fixed steps.
    """
    for pattern, _ in recipe.overrides:
        if not any(fnmatchcase(site.name, pattern) for site in known):
            raise RecipeError(f"The override for {pattern!r} matches no site.", hint="See the names with 'inspect'.")
    formats = {site.name: recipe.format_of(site.name) for site in sites}
    for site in sites:
        if site.overlaps and not formats[site.name].is_integer:
            formats[site.name] = W8A8
        if site.is_product and not formats[site.name].is_static:
            raise RecipeError(
                f"The products of attention cannot be {formats[site.name].name}: both operands are activations, "
                "which need step sizes fixed by calibration.",
                where=site.name,
                hint=f'Leave {parameter("attention_products")} out, or override them: "blocks.*.attn.[qp]*" = "W8A8".',
            )
    return formats


def _images(loader: Loader, description: str) -> Iterator[Tensor]:
    for batch in track(loader, description, len(loader)):
        yield batch.images


def _threshold(method: RangeMethod, histogram: MagnitudeHistogram, format_: Format) -> float:
    """FP8 spans five decades, so nothing is gained by clipping it; integers take the recipe's range method."""
    if isinstance(format_.activations, IntType):
        return method(histogram, format_.activations)
    return histogram.maximum


def figures(calibrated: Calibrated, quantized: Network, formats: Mapping[str, Format]) -> dict[str, Any]:
    """Format, ranges and SQNR of every site, and the logits' SQNR, on the first calibration images."""
    loader, histograms, thresholds = calibrated.loader, calibrated.histograms, calibrated.thresholds(formats)
    few = copy.copy(loader)
    few.indices = loader.indices[:SQNR_IMAGES]
    # One fixed batch size, so that figures do not depend on --calib-batch.
    few.batch_size = 32
    sqnr = measure_sqnr(calibrated.model, quantized, _images(few, "Comparing with float"))

    modules = dict(quantized_modules(quantized))

    def ranges(site: Site) -> dict[str, dict[str, float]]:
        kind = formats[site.name].activations
        if kind is None or formats[site.name].dynamic:
            return {}
        found = {}
        for name, scale in input_scales(modules[site.name]).items():
            key = f"{site.name}/{name}"
            calibrated_scale = float(scale_of(thresholds[key], kind))
            learned = scale != calibrated_scale  # by the reconstruction of its block
            threshold = scale * kind.qmax if learned and isinstance(kind, IntType) else thresholds[key]
            found[name] = {"max": histograms[key].maximum, "threshold": threshold, "scale": scale}
        return found

    return {
        "sqnr_images": len(few.indices) - len(few.skipped),
        "logit_sqnr_db": sqnr[LOGITS],
        "sites": {
            site.name: {
                "format": formats[site.name].name,
                "sqnr_db": sqnr[site.name],
                "inputs": ranges(site),
            }
            for site in calibrated.sites
        },
    }
