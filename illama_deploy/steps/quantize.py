"""checkpoint → exact rewrites → calibration → rounding → quantized checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from ..affine import scale_of
from ..atomic import new_directory
from ..calib import MagnitudeHistogram, RangeMethod, collect_channel_maxima, collect_ranges, range_method
from ..checkpoint import EMBEDDED, Checkpoint, read_checkpoint
from ..data import Loader, open_data, sample_indices
from ..errors import RecipeError, UsageError
from ..formats import Format, IntType, NumberType
from ..model.illama import Illama
from ..preprocessing import Preprocessing
from ..progress import track
from ..quant import (
    Journal,
    QuantizedArtifact,
    Reconstructed,
    Site,
    find_sites,
    load_quantized,
    quantize_network,
    quantize_sequentially,
    save_quantized,
    select_sites,
)
from ..quant.quality import LOGITS, measure_sqnr
from ..recipe import Recipe
from ..rewrites import apply_rewrites, find_rewrites
from ..rounding import RoundedWeight, rounding_method, weight_clip
from ..versions import versions
from ..workspace import Workspace

__all__ = ["quantize", "rewrite_float"]

#: Images on which the manifest's SQNR figures are taken.
SQNR_IMAGES = 64


def quantize(
    checkpoint: str | Path = EMBEDDED,
    *,
    bits: int | str | None = None,
    format: str | None = None,
    effort: str | None = None,
    recipe: Recipe | str | Path | None = None,
    data: str | None = None,
    split: str | None = None,
    calib_images: int | None = None,
    calib_batch: int = 64,
    seed: int | None = None,
    range: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    attention_products: bool | None = None,
    heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    ema: bool = False,
    preprocessing: dict[str, Any] | None = None,
    skip_broken: bool = False,
    out: str | Path | None = None,
    force: bool = False,
) -> QuantizedArtifact:
    """Quantize a trained checkpoint after training.

    Args:
        checkpoint: `.pth` or `.safetensors`, or `digits` for the embedded default.
        bits: shorthand for weights and activations of that width: 8 is `W8A8`.
        format: name of a number format, such as `W4A8` or `W4A16-g64`; it is made by its shipped recipe, where there
            is one and `recipe` names no other.
        effort: how hard the shipped recipe of a format tries: `fast`, `balanced` (where not given) or `best`.
        recipe: a `Recipe`, a TOML file, or a shipped recipe's name; the options below it override its keys.
        data: data spec of the calibration images; what the checkpoint's metadata says where not given.
        split: of the data; `train` where not given.
        calib_batch: images decoded at a time; changes no result.
        range, include, exclude, attention_products, calib_images, seed: keys of the recipe.
        heads, image_size, ema: as in `read_checkpoint`.
        preprocessing: fields of `Preprocessing` that replace the checkpoint's.
        skip_broken: leave out images that cannot be decoded, and list them in the manifest.
        out: directory to make; `illama-out/quantized` where not given.
        force: replace a directory that exists.

    Returns:
        The artefact, loaded from where it was written. Where rounding goes block by block, what is finished is kept
        beside `out` until then: after an interruption the same call goes on from there, to the same result.

    Raises:
        DeployError: bad input; nothing is written.
    """
    if bits is not None and format is not None:
        raise UsageError("Both --bits and --format are given.", hint="Give one of them.")
    resolved = _resolve_recipe(recipe, bits, format, effort).override(
        range=range,
        include=None if include is None else tuple(include),
        exclude=None if exclude is None else tuple(exclude),
        attention_products=attention_products,
        calib_images=calib_images,
        seed=seed,
    )
    if calib_batch < 1:
        raise UsageError("The calibration batch needs at least one image.", hint="Raise --calib-batch.")
    # What the recipe names is looked up before any image is read.
    method = range_method(resolved.range)
    rounding, clip = rounding_method(resolved.rounding), weight_clip(resolved.weight_clip)
    if resolved.reconstruct and not rounding.needs_moments:
        raise RecipeError(
            f"Blocks are reconstructed one after the other, and {resolved.rounding!r} rounds all at once.",
            hint='Say rounding = "gptaq" (or "gptq") beside reconstruct.',
        )

    def rounded(weight: Tensor, dtype: NumberType, group: int | None) -> RoundedWeight:
        return rounding.round(weight, dtype, clip=clip, group=group)

    find_rewrites(resolved.rewrites)
    out = Path(out) if out is not None else Workspace().quantized
    with new_directory(out, force=force, inputs=_inputs(checkpoint, recipe, data)) as directory:
        source = read_checkpoint(checkpoint, heads=heads, image_size=image_size, ema=ema)
        expected = source.preprocessing.override(**(preprocessing or {}))
        loader = _open_images(source, expected, data, split, resolved, calib_batch, skip_broken)
        model = source.build()
        sites = select_sites(
            find_sites(model),
            include=resolved.include,
            exclude=resolved.exclude,
            attention_products=resolved.attention_products,
        )
        if not sites:
            raise UsageError("The recipe leaves no site to quantize.", hint="Loosen --include or --exclude.")
        formats = site_formats(sites, resolved, find_sites(model))

        rewrite_float(model, resolved, loader)
        static = {site.name: site.inputs for site in sites if formats[site.name].is_static}
        histograms = collect_ranges(model, static, _images(loader, "Calibrating ranges")) if static else {}
        thresholds = {name: _threshold(method, h, formats[name.partition("/")[0]]) for name, h in histograms.items()}

        origin = {"path": str(checkpoint), "sha256": source.sha256, "heads": source.config.heads, "ema": ema}
        tools = versions("torch", "timm", "torchvision", "numpy", "pillow")
        quantized = copy.deepcopy(model)
        reconstructed: dict[str, Reconstructed] = {}
        journal: Journal | None = None
        if rounding.needs_moments:
            journal = Journal(
                out.with_name(f".{out.name}.unfinished"),
                {
                    "recipe": resolved.to_dict(),
                    "source": origin,
                    "preprocessing": expected.to_dict(),
                    "data": [loader.source.spec, loader.source.split, *loader.indices],
                    "versions": tools,
                },
            )
            reconstructed = quantize_sequentially(
                quantized,
                model,
                sites,
                thresholds,
                formats,
                rounding,
                lambda: _images(loader, "Rounding"),
                clip=clip,
                reconstruct=resolved.reconstruct,
                seed=resolved.seed,
                journal=journal,
            )
        else:
            quantize_network(quantized, sites, thresholds, formats, rounded)

        manifest = {
            "format": resolved.format,
            "recipe": resolved.to_dict(),
            "source": origin,
            "classes": list(source.classes),
            "preprocessing": expected.to_dict(),
            "data": {
                "spec": loader.source.spec,
                "split": loader.source.split,
                "indices": list(loader.indices),
                "skipped": loader.skipped,
            },
            "versions": tools,
            "reconstructed": {name: done._asdict() for name, done in reconstructed.items()},
            **_figures(model, quantized, sites, formats, thresholds, histograms, loader),
        }
        save_quantized(directory, quantized, manifest)
    if journal is not None:
        journal.remove()
    return load_quantized(out)


def rewrite_float(model: Illama, recipe: Recipe, loader: Loader) -> None:
    """Apply a recipe's rewrites, in place; those that balance channels look at the calibration images."""
    apply_rewrites(
        model,
        recipe.rewrites,
        lambda rewritten: collect_channel_maxima(rewritten, _images(loader, "Measuring channels")),
        seed=recipe.seed,
    )


def site_formats(sites: Sequence[Site], recipe: Recipe, known: Sequence[Site]) -> dict[str, Format]:
    """The format of every site.

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


def _open_images(
    checkpoint: Checkpoint,
    preprocessing: Preprocessing,
    data: str | None,
    split: str | None,
    recipe: Recipe,
    batch_size: int,
    skip_broken: bool,
) -> Loader:
    spec = data or checkpoint.data
    if spec is None:
        raise UsageError(
            "Calibration needs images, and the checkpoint does not say which data it was trained for.",
            hint="Give them with --data, such as --data folder:PATH or --data parquet:PATH.",
        )
    if (preprocessing.channels, preprocessing.size) != (
        checkpoint.config.channels,
        checkpoint.config.image_size,
    ):
        raise UsageError(
            f"Preprocessing makes {preprocessing.channels} channels of {_by(preprocessing.size)} px; the network takes "
            f"{checkpoint.config.channels} of {_by(checkpoint.config.image_size)}.",
            hint="Give --image-size for another size, and as many means and deviations as channels.",
        )
    source = open_data(spec, split, role="calibrate")
    indices = sample_indices(len(source), recipe.calib_images, recipe.seed)
    return Loader(
        source,
        preprocessing,
        classes=checkpoint.config.classes,
        batch_size=batch_size,
        indices=indices,
        skip_broken=skip_broken,
    )


def _inputs(checkpoint: str | Path, recipe: object, data: str | None) -> list[str | Path]:
    """Paths that the step reads, which its output must not replace."""
    named = [checkpoint, recipe, (data or "").partition(":")[2].partition("?")[0] or None]
    return [path for path in named if isinstance(path, str | Path)]


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


def _figures(
    model: Illama,
    quantized: Illama,
    sites: Sequence[Site],
    formats: Mapping[str, Format],
    thresholds: dict[str, float],
    histograms: dict[str, MagnitudeHistogram],
    loader: Loader,
) -> dict[str, Any]:
    """Format, ranges and SQNR of every site, and the logits' SQNR, on the first calibration images."""
    few = copy.copy(loader)
    few.indices = loader.indices[:SQNR_IMAGES]
    # One fixed batch size, so that figures do not depend on --calib-batch.
    few.batch_size = 32
    sqnr = measure_sqnr(model, quantized, _images(few, "Comparing with float"))

    def ranges(site: Site) -> dict[str, dict[str, float]]:
        kind = formats[site.name].activations
        if kind is None or formats[site.name].dynamic:
            return {}
        return {
            name: {
                "max": histograms[key].maximum,
                "threshold": thresholds[key],
                "scale": float(scale_of(thresholds[key], kind)),
            }
            for name, key in ((name, f"{site.name}/{name}") for name in site.inputs)
        }

    return {
        "sqnr_images": len(few.indices) - len(few.skipped),
        "logit_sqnr_db": sqnr[LOGITS],
        "sites": {
            site.name: {
                "format": formats[site.name].name,
                "sqnr_db": sqnr[site.name],
                "inputs": ranges(site),
            }
            for site in sites
        },
    }
