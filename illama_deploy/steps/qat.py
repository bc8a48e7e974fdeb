"""A network quantized after training, or a float one that is quantized first → the same, trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic import new_directory
from ..calib import collect_channel_maxima
from ..checkpoint import EMBEDDED, read_checkpoint
from ..data import Loader, open_data
from ..errors import DataError, UsageError
from ..model.illama import Illama
from ..progress import track
from ..quant import QuantizedArtifact, QuantMatMul, load_quantized, quantized_modules, save_quantized
from ..quant.artifact import MANIFEST
from ..quant.modules import QuantWeighted
from ..quant.quality import LOGITS, measure_sqnr
from ..rewrites import apply_rewrites
from ..training import RunDirectory, Trainer, TrainRecipe, freeze, join_processes, make_trainable
from ..workspace import Workspace
from .load_checkpoint import read_source
from .quantize import SQNR_IMAGES, quantize
from .train import TrainResult, make_loaders, open_training_data

__all__ = ["format_name", "qat", "rewritten_network"]

#: In the run's directory: what training starts from, where it was made here, and what it gave.
START, RESULT = "start", "quantized"


def qat(
    checkpoint: str | Path = EMBEDDED,
    *,
    bits: int | str | None = None,
    format: str | None = None,
    recipe: TrainRecipe | str | Path | None = None,
    source: str | Path | None = None,
    calib_images: int | None = None,
    data: str | None = None,
    split: str | None = None,
    eval_data: str | None = None,
    eval_split: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    ema: bool = False,
    micro_batch: int | None = None,
    workers: int = 0,
    compile: bool = False,
    save_minutes: float = 10.0,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train a quantized network with the arithmetic that it ships with, its float original being the teacher.

    Args:
        checkpoint: directory that `quantize` wrote, or a float checkpoint, which is quantized first.
        bits, format, calib_images, heads, image_size, ema: of that, as in `quantize`; nothing of it with a directory.
        recipe: as in `train`; the shipped `qat` (`qat-digits` on these) where not given.
        source: the float checkpoint of a directory, where it has moved.
        out: the run's directory, which gets `quantized`; `illama-out/qat` where not given.

    The other options are those of `train`.

    Raises:
        DeployError: bad input, or a run that stopped; what it had done is kept.
    """
    out = Path(out) if out is not None else Workspace().qat
    given = Path(checkpoint)
    is_directory = given.is_dir() and (given / MANIFEST).is_file()
    if is_directory and (bits, format, calib_images, heads, image_size, ema) != (None, None, None, None, None, False):
        raise UsageError(
            "The directory is quantized already; it says its format and geometry itself.",
            where=given,
            hint="Leave --bits, --format, --calib-images, --heads, --image-size and --ema out.",
        )
    origin = load_quantized(given) if is_directory else read_checkpoint(checkpoint, heads=heads, ema=ema)
    spec = data or (origin.manifest["data"]["spec"] if isinstance(origin, QuantizedArtifact) else origin.data)
    sources = open_training_data(spec, split, eval_data, eval_split)
    if recipe is None:
        recipe = "qat-digits" if spec == "digits" else "qat"
    resolved = (recipe if isinstance(recipe, TrainRecipe) else TrainRecipe.read(recipe)).override(
        epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
    )
    identity = {
        **{f"recipe.{key}": value for key, value in resolved.to_dict().items()},
        "data": spec,
        "split": sources[0].split,
        "start": origin.manifest_sha256 if isinstance(origin, QuantizedArtifact) else origin.sha256,
        "format": format or bits,
        "calib_images": calib_images,
        "image_size": image_size,
    }
    with join_processes() as processes:
        run = RunDirectory(out, identity, resume=resume, force=force, writes=processes.rank == 0)
        start = given if is_directory else out / START
        if not is_directory and run.writes and run.saved is None:
            quantize(checkpoint, bits=bits, format=format, data=spec, calib_images=calib_images, heads=heads,
                     image_size=image_size, ema=ema, out=start, force=True)  # fmt: skip
        processes.wait()
        artifact = load_quantized(start)
        classes, names = artifact.model.config.classes, sources[0].classes
        if names and len(names) != classes:
            raise DataError(
                f"The data has {len(names)} classes and the network {classes}.",
                where=spec,
                hint="Give the data that the network was trained for.",
            )
        target = rewritten_network(artifact, source)
        images, held_out = make_loaders(
            sources, resolved, artifact.preprocessing, processes, classes, micro_batch, workers
        )
        make_trainable(artifact.model, target, learned=resolved.steps == "learned")
        trainer = Trainer(
            artifact.model,
            target if resolved.teacher or resolved.features else None,
            resolved,
            images,
            held_out,
            run,
            processes,
            finish=freeze,
            compile=compile,
            save_minutes=save_minutes,
            say=say,
        )
        network, figures = trainer.fit()
        if run.writes:
            about = {"recipe": resolved.to_dict(), "data": spec, "start_sha256": artifact.manifest_sha256}
            with new_directory(out / RESULT, force=True) as directory:
                manifest = {**artifact.manifest, "qat": about, **_figures(artifact, target, network)}
                save_quantized(directory, network, manifest)
    return TrainResult(out / RESULT, out, figures, processes.rank)


def format_name(weights: int | None, activations: int | None) -> str | None:
    """`W4A8` of 4 and 8; weights alone leave the activations in floating point; None of neither.

    Raises:
        UsageError: activations alone.
    """
    if weights is None and activations is not None:
        raise UsageError("--activations needs --weights.", hint="Such as --weights 4 --activations 8.")
    return None if weights is None else f"W{weights}A{activations or 16}"


def rewritten_network(artifact: QuantizedArtifact, source: str | Path | None = None) -> Illama:
    """The float network in the form that was quantized: the same function, weights to compare site by site.

    Raises:
        DeployError: the float checkpoint, or the images that a rewrite was balanced on, are not there.
    """
    hint = "Say where it is now with --source."
    model = read_source(artifact, source, hint).build()
    apply_rewrites(
        model,
        artifact.recipe.rewrites,
        lambda rewritten: collect_channel_maxima(rewritten, _calibration(artifact)),
        seed=artifact.recipe.seed,
    )
    return model


def _calibration(artifact: QuantizedArtifact, limit: int | None = None) -> Iterator[Tensor]:
    """The images that ranges were taken on."""
    about = artifact.manifest["data"]
    loader = Loader(
        open_data(about["spec"], about["split"] or None, role="calibrate"),
        artifact.preprocessing,
        classes=artifact.model.config.classes,
        batch_size=32,
        indices=about["indices"][:limit],
        skip_broken=bool(about["skipped"]),
    )
    for batch in track(loader, "Reading calibration images", len(loader)):
        yield batch.images


def _figures(artifact: QuantizedArtifact, target: Illama, network: Illama) -> dict[str, Any]:
    """What `quantize` records of sites, for the trained network."""
    sqnr = measure_sqnr(target, network, _calibration(artifact, SQNR_IMAGES))
    sites = copy.deepcopy(artifact.manifest["sites"])
    for name, module in quantized_modules(network):
        sites[name]["sqnr_db"] = sqnr[name]
        if isinstance(module, QuantMatMul):
            scales = dict(zip(("a", "b"), module.scales(), strict=True))
        else:
            assert isinstance(module, QuantWeighted)
            scales = {} if module.input_scale is None else {"input": module.input_scale}
        for key, scale in scales.items():
            sites[name]["inputs"][key].update(scale=float(scale), threshold=float(scale) * module.activations.qmax)
    return {"logit_sqnr_db": sqnr[LOGITS], "sites": sites}
