"""A network quantized after training, or a float one that is quantized first → the same, trained."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..atomic import new_directory, require_apart
from ..checkpoint import read_checkpoint
from ..data import Loader, require_classes
from ..errors import UsageError, parameter
from ..formats import parse_format
from ..hashing import sha256_file
from ..memory import remember_images
from ..model.network import Network
from ..options import step
from ..options.groups import Geometry
from ..options.steps import QatOptions
from ..quant import QuantizedArtifact, input_scales, load_quantized, quantized_modules, save_quantized
from ..quant.artifact import MANIFEST
from ..quant.learnable import freeze, make_learnable
from ..quant.quality import LOGITS, measure_sqnr
from ..tasks import Task, find_task
from ..training import RunDirectory, RunOptions, Trainer, TrainRecipe, join_processes
from ..workspace import Workspace
from .quantize import quantize
from .shared.calibrated import SQNR_IMAGES, rewrite_float
from .shared.images import calibration_source, which_images
from .shared.inputs import choose_start, paths_of
from .shared.kernels import kernel_lines
from .shared.load_checkpoint import read_source
from .train import TrainResult

__all__ = ["format_name", "qat", "rewritten_network"]

#: In the run's directory: what training starts from, where it was made here, and what it gave.
START, RESULT = "start", "quantized"
#: Where weights start between their integers and the float ones: at the integers, or the first updates would undo what
#: GPTAQ chose (docs/log.md, 2026-11-26).
FLOAT_SHARE = 0.0


@step(QatOptions)
def qat(options: QatOptions) -> TrainResult:
    """Train a quantized network with the arithmetic that it ships with, its float original being the teacher.

    Raises:
        DeployError: bad input, or a run that stopped; what it had done is kept.
    """
    shared, geometry = RunOptions.of(options.run), options.geometry
    checkpoint, source = options.checkpoint, options.source
    recipe, workspace = options.recipe, options.place.workspace
    bits, format, calib_images = options.number.bits, options.number.format, options.calib_images
    named = format_name(options.weights, options.activations)
    if named is not None and format is not None:
        raise UsageError(f"Both {parameter('weights')} and {parameter('format')} are given.", hint="Give one of them.")
    format = format or named
    recipe = TrainRecipe.read(recipe) if isinstance(recipe, str | Path) else recipe  # before anything is opened
    place = workspace or Workspace()
    out = shared.out or place.qat
    if checkpoint is None:
        chosen = choose_start(place, quantizes=bits is not None or format is not None)
        shared.say(chosen.why)
        checkpoint, geometry = chosen.path, Geometry(**chosen.options(**geometry.flat()))
    given = Path(checkpoint)
    for made in (out / START, out / RESULT):
        require_apart(made, paths_of(checkpoint, source, shared.data, shared.eval_data))
    quantizing = {"bits": bits, "format": format, "calib_images": calib_images, **geometry.flat()}
    is_directory = given.is_dir() and (given / MANIFEST).is_file()
    if is_directory and any(quantizing.values()):
        raise UsageError(
            "The directory is quantized already; it says its format and geometry itself.",
            where=given,
            hint=f"Leave {', '.join(parameter(name) for name, value in quantizing.items() if value)} out.",
        )
    if is_directory:
        quantized = load_quantized(given)
        known, names = quantized.manifest["data"]["kind"], tuple(quantized.manifest["classes"])
        sha256, config = quantized.manifest_sha256, quantized.model.config
        hashes = [sha256, quantized.manifest["source"]["sha256"]]
        for line in kernel_lines(quantized.formats.values()):
            shared.say(line)
    else:
        start = read_checkpoint(checkpoint, **{**geometry.flat(), "image_size": None})
        known, sha256, config, names = start.data, start.sha256, start.config, start.classes
        hashes = [sha256]
    usual = _usual_recipe(task := find_task(config.task))
    sources, classes = shared.open_sources(which_images(shared.data, known, *hashes, what="Training")), config.classes
    sources[0].require_task(config.task)
    spec = sources[0].spec
    for each in sources:
        require_classes(each, classes, names)
    resolved = shared.resolve(recipe or ("qat-digits" if spec == "digits" else usual))
    identity = {**resolved.identity(), **quantizing, "data": spec, "split": sources[0].split, "start": sha256}
    with join_processes(shared.threads) as processes, ExitStack() as held:
        going_on = {"resume": shared.resume, "force": shared.force}
        run = held.enter_context(RunDirectory(out, identity, **going_on, writes=processes.rank == 0))
        if not is_directory and run.writes and run.saved is None:
            at: dict[str, Any] = {"data": spec, "split": shared.split, "out": out / START, "say": shared.say}
            at["recorded"] = False
            quantize(checkpoint, **quantizing, **at, force=True)
        processes.wait()
        artifact = load_quantized(given if is_directory else out / START)
        model = artifact.model
        images, held_out = shared.load(sources, resolved, artifact.preprocessing, processes, classes, task)
        target = rewritten_network(artifact, source)
        model.requires_grad_(True)
        shared_inputs = model.structure.shared_inputs()
        make_learnable(model, target, shared_inputs, learn_steps=resolved.steps == "learned", float_share=FLOAT_SHARE)
        # A copy, for it moves to the device, and `target` is compared with the network on the CPU.
        teacher = copy.deepcopy(target) if resolved.teacher or resolved.features else None
        trainer = Trainer(model, teacher, images, held_out, run, shared, judge=task.measure_held_out, finish=_frozen)
        network, figures = trainer.fit()
        if run.writes:
            about = {"recipe": resolved.to_dict(), "data": spec.partition(":")[0]}
            about["start_sha256"] = artifact.manifest_sha256
            with new_directory(out / RESULT, force=True) as directory:
                manifest = {**artifact.manifest, "qat": about, **_figures(artifact, target, network)}
                save_quantized(directory, network, manifest)
            remember_images(sha256_file(out / RESULT / MANIFEST), spec)
            start_at = given if is_directory else out / START
            _record(place, out / RESULT, artifact, start_at, geometry, named=workspace is not None)
    return TrainResult(out / RESULT, out, figures, processes.rank)


def _usual_recipe(task: Task) -> str:
    """The recipe where none is named.

    Raises:
        UsageError: there is none, since networks of this task learn from no labels.
    """
    if task.qat_recipe is None:
        raise UsageError(
            f"Quantization-aware training learns classes from labels, and this network {task.does}.",
            hint="Quantize it after training: 'illama-deploy quantize', with an effort or a recipe that costs more.",
        )
    return task.qat_recipe


def _record(
    place: Workspace, made: Path, start: QuantizedArtifact, start_at: Path, geometry: Geometry, *, named: bool
) -> None:
    """Write down in the workspace what was made from what."""
    origin = start.manifest["source"]
    place.record(
        "qat",
        made,
        named=named,
        source=start_at,
        checkpoint=origin["sha256"],
        checkpoint_name=origin["name"],
        opened=geometry.opened(),
        format=start.manifest["format"],
    )


def format_name(weights: int | None, activations: int | None) -> str | None:
    """`W4A8` of 4 and 8; weights alone leave the activations in floating point; None of neither.

    Raises:
        UsageError: activations alone.
    """
    if weights is None and activations is not None:
        raise UsageError(
            f"{parameter('activations')} needs {parameter('weights')}.",
            hint=f"Such as {parameter(weights=4, activations=8)}.",
        )
    return None if weights is None else f"W{weights}A{activations or 16}"


def rewritten_network(artifact: QuantizedArtifact, source: str | Path | None = None) -> Network:
    """The float network in the form that was quantized: the same function, weights to compare site by site.

    Raises:
        DeployError: the float checkpoint, or the images that a rewrite was balanced on, are not there.
    """
    hint = f"Say where it is now with {parameter('source')}."
    model = read_source(artifact, source, hint).build()
    formats = {name: parse_format(about["format"]) for name, about in artifact.manifest["sites"].items()}
    rewrite_float(model, artifact.recipe, formats, _calibration(artifact))
    return model


def _frozen(model: Network) -> Network:
    """A copy as it ships."""
    network = copy.deepcopy(model).cpu()
    freeze(network)
    return network.requires_grad_(False).eval()


def _calibration(artifact: QuantizedArtifact, limit: int | None = None) -> Loader:
    """The images that ranges were taken on, or the first of them."""
    about = artifact.manifest["data"]
    return Loader(
        calibration_source(artifact, what="Training a quantized network"),
        artifact.preprocessing,
        classes=artifact.model.config.label_classes,
        labels=False,
        batch_size=32,
        indices=about["indices"][:limit],
        skip_broken=bool(about["skipped"]),
    )


def _figures(artifact: QuantizedArtifact, target: Network, network: Network) -> dict[str, Any]:
    """What `quantize` records of sites, for the trained network."""
    few = _calibration(artifact, SQNR_IMAGES)
    sqnr = measure_sqnr(target, network, (batch.images for batch in few))
    sites = copy.deepcopy(artifact.manifest["sites"])
    for name, module in quantized_modules(network):
        sites[name]["sqnr_db"] = sqnr[name]
        for key, scale in input_scales(module).items():
            sites[name]["inputs"][key].update(scale=scale, threshold=scale * module.activations.qmax)
    return {"logit_sqnr_db": sqnr[LOGITS], "sites": sites}
