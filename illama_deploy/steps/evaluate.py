"""Accuracy of one artifact, its distance from a reference, and its properties."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import new_directory, new_file
from ..console import as_text
from ..data import Loader, compare_classes, open_data
from ..errors import UsageError, parameter
from ..hashing import canonical_json
from ..measure import Sliding
from ..options import step
from ..options.groups import Evaluated, Preparation, SlidingOptions
from ..options.steps import EvaluateOptions
from ..properties import PROPERTIES
from ..report import chance_notes, finite_notes
from ..report.renderers import render_properties
from ..runtime import Runtime
from ..targets.open import open_artifact
from ..task_names import classes_of
from ..tasks import TASKS, AccuracyFigures, find_task
from .shared.images import calibrated_on, which_images
from .shared.inputs import paths_of, refuse_stale
from .shared.properties import Properties, require_known

__all__ = ["Evaluation", "class_names", "evaluate", "open_evaluation_data"]


#: Of the interval that tells an artifact from chance.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evaluation:
    """Figures of one artifact on one data set.

    Attributes:
        figures: `top1`, `top5` (percent), `ece`, `nll`, `brier`, `images`, and with a reference `agreement` (percent)
            and `logit_sqnr_db`; where pixels are classified those of `PixelAccuracy` and `PixelComparison`,
            `iou` by the classes' names; of features those of `FeatureAccuracy` and `FeatureComparison`.
        skipped: names of broken images left out.
        notes: in words, what makes the figures worth nothing: logits that are no numbers, guesses like chance.
        properties: what else was asked for, as `Properties.measure` gives it.
    """

    artifact: dict[str, Any]
    data: dict[str, Any]
    figures: dict[str, Any]
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()
    properties: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Figures at the top level, then what they were measured on."""
        content = {**self.figures, "skipped": list(self.skipped), "artifact": self.artifact, "data": self.data}
        content |= {"notes": list(self.notes)} if self.notes else {}
        return content | ({"properties": self.properties} if self.properties else {})


@step(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> Evaluation:
    """Measure accuracy, and what else is asked for.

    Raises:
        DeployError: bad input, or a property that the artifact cannot show; nothing is written.
    """
    artifact, reference, figures = options.artifact, options.reference, options.figures
    images, properties = options.images, options.properties
    save_logits, draw, sliding = options.save_logits, options.draw, _sliding(options.sliding)
    if artifact is None:
        raise UsageError("Nothing to measure.", hint="Name an artifact.")
    require_known(properties)
    refuse_stale(artifact, reference)
    inputs = paths_of(artifact, reference, images.data, properties.cue_conflict, properties.categories)
    with ExitStack() as outputs:
        # Opened first, so that a place that cannot be written shows before any work is done.
        logits_file, json_file, html_file = (
            None if path is None else outputs.enter_context(new_file(path, force=True, inputs=inputs))
            for path in (save_logits, figures.json, figures.html)
        )
        opening = {"threads": options.threads, **options.geometry.flat(), **options.running.flat()}
        runtimes = [_open(artifact, {**opening, **options.backend.flat()})]
        if reference is not None:
            runtimes.insert(0, _open(reference, opening))
        runtime = runtimes[-1]
        task = find_task(runtime.task)
        _check_options(runtime, sliding=sliding, draw=draw, save_logits=save_logits)
        pictures = None if draw is None else outputs.enter_context(new_directory(draw, inputs=inputs))
        loader = open_evaluation_data(runtimes[::-1], images, options.batch_size, options.preparation)
        expected = loader.preprocessing
        wanted = Properties(runtime, loader, expected, properties, CONFIDENCE)
        for name, reason in wanted.cannot.items():
            raise UsageError(
                f"The property {name} cannot be measured: {reason}.",
                where=runtime.info.name,
                hint=("" if name in task.cannot_show else PROPERTIES[name].hint)
                or f"Leave it out of {parameter('properties')}.",
            )
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        names = class_names(runtime, loader)

        def on_sample(sample: Any, outputs: list[Any]) -> None:
            wanted.update(sample, outputs[-1])
            if logits_file is not None:
                kept.append((outputs[-1], sample.labels.numpy()))
            if pictures is not None and (drawn := task.draw(sample, outputs[-1], names)) is not None:
                drawn.save(pictures / f"{Path(sample.name).stem}.png")

        measured = task.measure(runtimes, loader, on_sample, sliding=sliding, binning=wanted.binning)
        accuracy, comparison = measured.accuracies[-1], measured.comparisons[-1]
        found = task.named(accuracy.to_dict(), names)
        if reference is not None:
            found.update(comparison.to_dict())
        result = Evaluation(
            artifact=runtime.info.to_dict(),
            data={
                "spec": loader.source.spec,
                "split": loader.source.split,
                "preprocessing": expected.to_dict(),
                "notes": loader.notes,
            },
            figures=found,
            skipped=tuple(loader.skipped),
            notes=_notes(runtime, accuracy),
            properties=wanted.measure(accuracy),
        )
        if logits_file is not None:
            with logits_file.open("wb") as file:
                np.savez(
                    file,
                    logits=np.concatenate([logits for logits, _ in kept]),
                    labels=np.concatenate([labels for _, labels in kept]),
                )
        if json_file is not None:
            json_file.write_text(canonical_json(as_text(result.to_dict())), encoding="utf-8")
        if html_file is not None:
            html_file.write_text(render_properties(as_text(result.to_dict())), encoding="utf-8")
    return result


def _notes(runtime: Runtime, accuracy: AccuracyFigures) -> tuple[str, ...]:
    """Why the figures are worth nothing, if they are."""
    about = accuracy.to_dict() | ({} if accuracy.chance is None else {"chance": accuracy.chance})
    about["intervals"] = {name: [one.low, one.high] for name, one in accuracy.intervals(CONFIDENCE).items()}
    entry = {"info": runtime.info.to_dict(), "accuracy": about}
    task = find_task(runtime.task)
    return (*finite_notes([entry], task), *chance_notes([entry], task))


def _check_options(runtime: Runtime, **options: Any) -> None:
    """Refuse options of another task.

    Raises:
        UsageError: naming the first.
    """
    own = {name for name, _ in find_task(runtime.task).options}
    for task in TASKS.values():
        for name, parameters in task.options:
            if name not in own and options[name] is not None:
                *others, last = map(parameter, parameters)
                those = f"{', '.join(others)} or {last}" if others else last
                raise UsageError(
                    f"{those} is for networks that classify {task.counted}.",
                    where=runtime.info.name,
                    hint="Leave it out.",
                )


def class_names(runtime: Runtime, loader: Loader) -> tuple[str, ...]:
    """Names of the classes, numbers where nobody knows any."""
    return runtime.class_names or loader.source.classes or tuple(map(str, range(runtime.classes)))


def _sliding(options: SlidingOptions) -> Sliding | None:
    """How whole images are predicted, where something is said of it."""
    if options == SlidingOptions():
        return None
    return Sliding(options.stride, options.scales or (1.0,), options.flip)


def _open(artifact: str | Path | Runtime, options: dict[str, Any]) -> Runtime:
    return artifact if isinstance(artifact, Runtime) else open_artifact(artifact, **options)


def open_evaluation_data(
    runtimes: list[Runtime],
    images: Evaluated,
    batch_size: int | None,
    preparation: Preparation,
) -> Loader:
    """Open the images that all artifacts are measured on; the first artifact decides where nothing is said.

    Raises:
        UsageError: no data is known, the artifacts do not belong together, or one does not take such batches.
    """
    first = runtimes[0]
    limits = [runtime.batches for runtime in runtimes if runtime.batches is not None]
    task = find_task(first.task)
    if batch_size is None:
        batch_size = min([task.batch_size, *(accepted.largest for accepted in limits)])
    if batch_size < 1:
        raise UsageError("At least one image is needed.", hint=f"Raise {parameter('batch_size')}.")
    for accepted in limits:
        accepted.require(batch_size)
    expected = [runtime.preprocessing.override(**preparation.overrides()) for runtime in runtimes]
    for runtime, own in zip(runtimes, expected, strict=True):
        if own != expected[0]:
            raise UsageError(
                f"{first.info.name} and {runtime.info.name} expect differently prepared images, so their figures "
                f"cannot be compared:\n    {expected[0]}\n    {own}",
                hint=f"Compare artifacts of one checkpoint, or say the preprocessing with {parameter('mean')}, "
                f"{parameter('std')}, {parameter('crop')}, ...",
            )
        if (runtime.task, runtime.classes) != (first.task, first.classes):
            raise UsageError(
                f"{first.info.name} has {first.classes} classes ({first.task}) and {runtime.info.name} "
                f"{runtime.classes} ({runtime.task}).",
                hint="Compare artifacts of one checkpoint.",
            )
        if first.class_names and runtime.class_names:
            compare_classes(
                first.class_names,
                runtime.class_names,
                whose=(first.info.name, runtime.info.name),
                where=runtime.info.name,
                hint="Compare artifacts of one checkpoint.",
            )
    said = next((runtime.data for runtime in runtimes if runtime.data), None)
    hashes = [sha for runtime in runtimes for sha in (runtime.info.manifest_sha256, runtime.info.sha256)]
    spec = which_images(images.data, said, *hashes, what=first.info.name)
    source = open_data(spec, images.split, role="evaluate", labels=task.needs_labels)
    source.require_task(first.task)
    if source.unlabelled and not task.needs_labels:
        source.notes += (f"without labels there is no {task.title}: {source.unlabelled}",)
    quantized = [runtime.info.manifest_sha256 for runtime in runtimes if runtime.info.manifest_sha256]
    if quantized and (note := calibrated_on(source, *quantized)) is not None:
        source.notes += (note,)
    indices = range(min(images.limit or len(source), len(source)))
    task.require_images(len(indices))
    return task.loader()(
        source,
        expected[0],
        classes=classes_of(first.task, first.classes),
        names=next((runtime.class_names for runtime in runtimes if runtime.class_names), ()),
        labels=task.needs_labels or not source.unlabelled,
        batch_size=batch_size,
        indices=indices,
        skip_broken=images.skip_broken,
    )
