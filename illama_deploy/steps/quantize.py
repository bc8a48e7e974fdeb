"""checkpoint → exact rewrites → calibration → rounding → quantized checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import EMBEDDED_FILE, Checkpoint, read_checkpoint
from ..data import Loader, open_data, sample_indices
from ..errors import UsageError, parameter
from ..formats import Format, parse_format
from ..journal import Journal
from ..memory import remember_images, remember_path
from ..options import step
from ..options.groups import Geometry, Images
from ..options.steps import QuantizeOptions
from ..preprocessing import Preprocessing
from ..quant import (
    QuantizedArtifact,
    Reconstructed,
    load_quantized,
    quantized_modules,
    save_quantized,
)
from ..recipe import Recipe
from ..rewrites import rewrites_for
from ..search import Limits
from ..tasks import find_task
from ..versions import versions
from ..workspace import Workspace
from .shared.calibrated import TOOLS, calibrate, choose_sites, figures
from .shared.images import which_images
from .shared.inputs import choose_checkpoint, paths_of
from .shared.kernels import kernel_lines, kernels_of
from .shared.search import hold_out, search

__all__ = ["quantize"]


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
        checkpoint, geometry = chosen.path, Geometry(**chosen.options(**geometry.flat()))
    for line in kernel_lines(_wanted_formats(resolved, limits)):
        say(line)
    inputs, usual = paths_of(checkpoint, options.recipe, images.data), place.quantized
    with place.output(out, usual, force=options.output.force, inputs=inputs) as directory:
        out = out if out is not None else usual
        source = read_checkpoint(checkpoint, **geometry.flat())
        _require_searchable(limits, source)
        expected = source.preprocessing.override(**options.preparation.overrides())
        loader = _open_images(source, expected, images, resolved, options.calib_batch)
        model = source.build()
        resolved = resolved.override(rewrites=rewrites_for(resolved.rewrites, model))
        sites, choices = choose_sites(model, resolved, limits.candidates if limits else ())
        held_out = None if limits is None else hold_out(model, loader, expected, sites, choices, limits, resolved.seed)
        named = {"name": source.path.resolve().name, "sha256": source.sha256}
        origin = {**named, "heads": source.config.heads, "ema": geometry.ema}
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
            **figures(calibrated, quantized, formats),
            **({"search": found.summary} if found else {}),
        }
        save_quantized(directory, quantized, manifest)
        if found is not None:
            found.write(directory)
    artifact = load_quantized(out)
    _remember(source, artifact, loader)
    if options.recorded:
        place.record(
            "quantize",
            out,
            named=workspace is not None,
            source=source.path,
            checkpoint=source.sha256,
            checkpoint_name=origin["name"],
            opened=geometry.opened(),
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
        raise UsageError(f"Both {parameter('bits')} and {parameter('format')} are given.", hint="Give one of them.")
    limits = Limits.read(
        options.max_drop, options.max_size, options.candidates, options.held_out_images, options.held_out_split
    )
    if limits is not None and (bits is not None or format is not None):
        raise UsageError(
            f"A search chooses the format of every site; {parameter('bits')} and {parameter('format')} name one for "
            "all.",
            hint=f"Name the formats to choose from with {parameter('candidates')}, or leave {parameter('max_drop')} "
            f"and {parameter('max_size')} out.",
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
        raise UsageError("The calibration batch needs at least one image.", hint=f"Raise {parameter('calib_batch')}.")
    return limits, resolved


def _require_searchable(limits: Limits | None, source: Checkpoint) -> None:
    """Refuse a search of a network whose accuracy is no share of images."""
    task = find_task(source.config.task)
    if limits is not None and not task.searchable:
        raise UsageError(
            f"A search goes by the drop in top-1, and this network {task.does}.",
            hint=f"Leave {parameter('max_drop')} and {parameter('max_size')} out; name the format with "
            f"{parameter('bits')} or {parameter('format')}.",
        )


def _remember(source: Checkpoint, artifact: QuantizedArtifact, loader: Loader) -> None:
    """Where the checkpoint lies, and which images belong to it and to what was made of it."""
    if source.path != EMBEDDED_FILE:
        remember_path(source.sha256, source.path)
    for one in (source.sha256, artifact.manifest_sha256):
        remember_images(one, loader.source.spec)


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


def _resolve_recipe(
    recipe: Recipe | str | Path | None, bits: int | str | None, format_: str | None, effort: str | None
) -> Recipe:
    if recipe is not None and effort is not None:
        raise UsageError(
            f"Both a recipe and {parameter('effort')} are given.", hint="Give one of them; a recipe says what to do."
        )
    if recipe is not None and bits is not None:
        raise UsageError(
            f"Both a recipe and {parameter('bits')} are given.", hint="Give one of them; a recipe says its format."
        )
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
            hint=f"Give {parameter('image_size')} for another size, and as many means and deviations as channels.",
        )
    source = open_data(spec, images.split, role="calibrate")
    indices = sample_indices(len(source), recipe.calib_images, recipe.seed)
    return Loader(
        source,
        preprocessing,
        classes=checkpoint.config.label_classes,
        names=checkpoint.classes,
        labels=False,
        batch_size=batch_size,
        indices=indices,
        skip_broken=images.skip_broken,
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
