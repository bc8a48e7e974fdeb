"""checkpoint → exact rewrites → calibration → rounding → quantized checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..affine import scale_of
from ..calib import MagnitudeHistogram, Observed, RangeMethod, collect_ranges, range_method
from ..checkpoint import EMBEDDED_FILE, Checkpoint, read_checkpoint
from ..data import Loader, open_data, sample_indices
from ..errors import RecipeError, UsageError
from ..formats import W8A8, Format, IntType, parse_format
from ..journal import Journal
from ..memory import remember_images, remember_path
from ..model.illama import Illama
from ..options import step
from ..options.groups import Geometry, Images
from ..options.steps import QuantizeOptions
from ..preprocessing import Preprocessing
from ..progress import track
from ..quant import (
    QuantizedArtifact,
    Reconstructed,
    Site,
    find_sites,
    input_scales,
    load_quantized,
    quantize_network,
    quantize_sequentially,
    quantized_modules,
    save_quantized,
    select_sites,
    trial_product,
)
from ..quant.quality import LOGITS, measure_sqnr
from ..recipe import Recipe
from ..rewrites import apply_rewrites, suited
from ..rounding import rounding_method
from ..search import Limits
from ..versions import cpu, versions
from ..workspace import Workspace
from .images import which_images
from .inputs import choose_checkpoint, paths_of
from .kernels import kernel_lines, kernels_of
from .search import hold_out, search

__all__ = ["quantize", "rewrite_float"]

#: Images on which the manifest's SQNR figures are taken.
SQNR_IMAGES = 64
#: Packages that the numbers depend on.
TOOLS = ("torch", "timm", "torchvision", "numpy", "pillow")


@step(QuantizeOptions)
def quantize(options: QuantizeOptions) -> QuantizedArtifact:
    """Quantize a trained checkpoint after training.

    With `max_drop` or `max_size` the format of every site is searched: the smallest artifact that keeps the first, the
    most exact one that keeps the second. The artifact holds the search as `search.json` and `search.svg`.

    Returns:
        The artifact, loaded from where it was written. Where rounding goes block by block, what is finished is kept
        beside `out` until then: after an interruption the same call goes on from there, to the same result.

    Raises:
        DeployError: bad input; nothing is written.
    """
    limits, resolved = _resolved(options)
    workspace, out, images = options.output.workspace, options.output.out, options.images
    checkpoint, say, geometry = options.checkpoint, options.output.say, options.geometry
    place = workspace or Workspace()
    if checkpoint is None:
        chosen = choose_checkpoint(place)
        say(chosen.why)
        checkpoint = chosen.path
        geometry = Geometry(**chosen.options(**geometry.flat()))
    for line in kernel_lines(_wanted_formats(resolved, limits)):
        say(line)
    inputs, usual = paths_of(checkpoint, options.recipe, images.data), place.quantized
    with place.output(out, usual, force=options.output.force, inputs=inputs) as directory:
        out = out if out is not None else usual
        source = read_checkpoint(checkpoint, **geometry.flat())
        if limits is not None and source.config.task != "classification":
            raise UsageError(
                "A search goes by the drop in top-1, and this network classifies pixels.",
                hint="Leave --max-drop and --max-size out; name the format with --bits or --format.",
            )
        resolved = resolved.override(rewrites=suited(resolved.rewrites, source.config.task))
        expected = source.preprocessing.override(**options.preparation.overrides())
        loader = _open_images(source, expected, images, resolved, options.calib_batch)
        model = source.build()
        sites, choices = choose_sites(model, resolved, limits.candidates if limits else ())
        held_out = None if limits is None else hold_out(loader, expected, sites, choices, limits, resolved.seed)
        origin = {
            "name": source.path.resolve().name,
            "sha256": source.sha256,
            "heads": source.config.heads,
            "ema": geometry.ema,
        }
        calibrated = calibrate(model, origin, expected, resolved, loader, sites, choices)
        found, formats = None, {name: each[0] for name, each in choices.items()}
        journal: Journal | None = None
        reconstructed: Mapping[str, Reconstructed] = {}
        if limits is not None and held_out is not None:
            found = search(calibrated, held_out, limits, beside=out)
            resolved, formats, quantized = found.recipe, found.formats, found.model
        else:
            journal = calibrated.journal(out)
            quantized, reconstructed = calibrated.quantize(formats, journal=journal)

        manifest = {
            "format": found.label if found else resolved.format,
            "recipe": resolved.to_dict(),
            "source": origin,
            "kernels": kernels_of(module.format for _, module in quantized_modules(quantized)),
            "classes": list(loader.class_names),
            "preprocessing": expected.to_dict(),
            "data": _about(loader),
            "versions": versions(*TOOLS),
            "reconstructed": {name: done._asdict() for name, done in reconstructed.items()},
            **_figures(calibrated, quantized, formats),
            **({"search": found.summary} if found else {}),
        }
        save_quantized(directory, quantized, manifest)
        if found is not None:
            found.write(directory)
    artifact = load_quantized(out)
    if source.path != EMBEDDED_FILE:
        remember_path(source.sha256, source.path)
    for one in (source.sha256, artifact.manifest_sha256):
        remember_images(one, loader.source.spec)
    if options.recorded:
        place.record(
            "quantize",
            out,
            named=workspace is not None,
            source=source.path,
            checkpoint=source.sha256,
            checkpoint_name=origin["name"],
            opened=geometry.flat(),
            format=manifest["format"],
        )
    for finished in (journal, found.journal if found else None):
        if finished is not None:
            finished.remove()
    return artifact


def _resolved(options: QuantizeOptions) -> tuple[Limits | None, Recipe]:
    """The limits of a search, where one is asked for, and the recipe with all that was said besides it.

    Raises:
        UsageError: options that do not fit together.
    """
    bits, format, effort = options.number.bits, options.number.format, options.effort
    if bits is not None and format is not None:
        raise UsageError("Both --bits and --format are given.", hint="Give one of them.")
    limits = Limits.read(
        options.max_drop, options.max_size, options.candidates, options.held_out_images, options.held_out_split
    )
    if limits is not None and (bits is not None or format is not None):
        raise UsageError(
            "A search chooses the format of every site; --bits and --format name one for all.",
            hint="Name the formats to choose from with --candidate, or leave --max-drop and --max-size out.",
        )
    if limits is None:
        resolved = _resolve_recipe(options.recipe, bits, format, effort)
    else:
        given = None if options.recipe is None else _resolve_recipe(options.recipe, None, None, effort)
        limits, resolved = limits.with_recipe(given, effort or "balanced")
    resolved = resolved.override(
        range=options.range,
        include=options.include,
        exclude=options.exclude,
        attention_products=options.attention_products,
        calib_images=options.calib_images,
        seed=options.seed,
    )
    if options.calib_batch < 1:
        raise UsageError("The calibration batch needs at least one image.", hint="Raise --calib-batch.")
    return limits, resolved


def _about(loader: Loader) -> dict[str, Any]:
    """What the manifest says of the calibration images."""
    return {
        "kind": loader.source.spec.partition(":")[0],
        "split": loader.source.split,
        "images": len(loader.source),
        "indices": list(loader.indices),
        "skipped": [loader.source.inside(name) for name in loader.skipped],
        "notes": loader.notes,
    }


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
    model: Illama
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
    ) -> tuple[Illama, dict[str, Reconstructed]]:
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
    model: Illama,
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


def rewrite_float(model: Illama, recipe: Recipe, formats: Mapping[str, Format], loader: Loader) -> None:
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
    model: Illama, recipe: Recipe, candidates: Sequence[Format] = ()
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
        raise UsageError("The recipe leaves no site to quantize.", hint="Loosen --include or --exclude.")
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
                hint='Leave --attention-products out, or override them: "blocks.*.attn.[qp]*" = "W8A8".',
            )
    return formats


def _resolve_recipe(
    recipe: Recipe | str | Path | None, bits: int | str | None, format_: str | None, effort: str | None
) -> Recipe:
    if recipe is not None and effort is not None:
        raise UsageError("Both a recipe and --effort are given.", hint="Give one of them; a recipe says what to do.")
    if recipe is not None and bits is not None:
        raise UsageError("Both a recipe and --bits are given.", hint="Give one of them; a recipe says its format.")
    if recipe is not None:
        resolved = recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
        return resolved.override(format=format_)
    name = format_ if format_ is not None else "8" if bits is None else str(bits)
    return Recipe.for_format(name, effort or "balanced")


def _wanted_formats(recipe: Recipe, limits: Limits | None) -> list[Format]:
    """What a recipe or a search may give sites."""
    names = [recipe.format, *(name for _, name in recipe.overrides)]
    return [parse_format(name) for name in names] if limits is None else list(limits.candidates)


def _open_images(
    checkpoint: Checkpoint,
    preprocessing: Preprocessing,
    images: Images,
    recipe: Recipe,
    batch_size: int,
) -> Loader:
    spec = which_images(images.data, checkpoint.data, checkpoint.sha256, what="Calibration")
    if (preprocessing.channels, preprocessing.size) != (
        checkpoint.config.channels,
        checkpoint.config.image_size,
    ):
        raise UsageError(
            f"Preprocessing makes {preprocessing.channels} channels of {_by(preprocessing.size)} px; the network takes "
            f"{checkpoint.config.channels} of {_by(checkpoint.config.image_size)}.",
            hint="Give --image-size for another size, and as many means and deviations as channels.",
        )
    source = open_data(spec, images.split, role="calibrate")
    indices = sample_indices(len(source), recipe.calib_images, recipe.seed)
    return Loader(
        source,
        preprocessing,
        classes=checkpoint.config.classes,
        names=checkpoint.classes,
        labels=False,
        batch_size=batch_size,
        indices=indices,
        skip_broken=images.skip_broken,
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _images(loader: Loader, description: str) -> Iterator[Tensor]:
    for batch in track(loader, description, len(loader)):
        yield batch.images


def _threshold(method: RangeMethod, histogram: MagnitudeHistogram, format_: Format) -> float:
    """FP8 spans five decades, so nothing is gained by clipping it; integers take the recipe's range method."""
    if isinstance(format_.activations, IntType):
        return method(histogram, format_.activations)
    return histogram.maximum


def _figures(calibrated: Calibrated, quantized: Illama, formats: Mapping[str, Format]) -> dict[str, Any]:
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
