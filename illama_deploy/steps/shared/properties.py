"""What the paper shows of iLLaMA beyond accuracy: calibration, shape bias, attention rank, and robustness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from ...data import IMAGENET16, Batch, CueConflict, Loader, Source, open_data, read_categories, sample_indices
from ...data.corruptions import Corruptor, corruption_names
from ...errors import ArtifactError, UsageError, parameter
from ...measure import Accuracy, Binning, fit_temperature, run_batch
from ...measure.attention_rank import measure_attention_rank, parse_mask
from ...measure.shape_bias import decide, shape_bias
from ...options.groups import PropertyOptions
from ...preprocessing import Preprocessing
from ...progress import track
from ...properties import PROPERTIES
from ...runtime import Runtime
from ...targets.torch_cpu.simulated import TorchRuntime
from ...tasks import AccuracyFigures, find_task

__all__ = ["Properties", "require_known"]


def require_known(options: PropertyOptions) -> None:
    """Refuse what is named and does not exist, before any work.

    Raises:
        UsageError: a mask or a corruption.
    """
    for mask in options.masks:
        parse_mask(mask)
    if "corruptions" in options.properties:
        corruption_names(options.corruptions)


class Properties:
    """Measures what is asked for of one artifact. What may be wrong with the input shows when it is made.

    Args:
        loader: the evaluation images, whose preprocessing is `preprocessing`.
        confidence: of each bound of each interval.

    Attributes:
        cannot: properties that the artifact cannot show, and why.

    Raises:
        DeployError: stimuli, mapping, calibration images or network do not do for what is asked.
    """

    def __init__(
        self,
        runtime: Runtime,
        loader: Loader,
        preprocessing: Preprocessing,
        options: PropertyOptions,
        confidence: float,
    ) -> None:
        self.runtime, self.loader, self.preprocessing, self.options = runtime, loader, preprocessing, options
        self.binning, self.confidence = Binning(options.bins, options.binning), confidence
        self.cannot: dict[str, str] = {}
        task = find_task(runtime.task)
        for name in options.properties:
            reason = f"it {task.does}" if name in task.cannot_show else PROPERTIES[name].cannot(runtime)
            if reason is not None:
                self.cannot[name] = reason
        asked = [name for name in options.properties if name not in self.cannot]
        if "shape-bias" in asked:
            self.stimuli = CueConflict(options.cue_conflict or "")
            names = runtime.class_names or loader.source.classes
            self.categories = read_categories(options.categories, runtime.classes, names)
            self.stimuli.require(self.categories, options.categories or IMAGENET16.name)
        if "corruptions" in asked:
            self.corruptor = Corruptor(preprocessing)
        if "attention-rank" in options.properties and not isinstance(runtime, TorchRuntime):
            self.cannot["attention-rank"] = f"{runtime.info.backend} does not show attention maps, torch does"
        self.scaled: Accuracy | None = None
        if options.fit_temperature and "calibration" in asked:
            self.temperature, self.fitted_on = self._fit()
            self.scaled = Accuracy(1, self.binning)

    def update(self, sample: Any, output: Any) -> None:
        """Look at a sample of the evaluation images, as `Task.measure` does, and at what the artifact gives for it."""
        if self.scaled is not None:
            self.scaled.update(output / self.temperature, sample.labels.numpy())

    def measure(self, accuracy: AccuracyFigures) -> dict[str, Any]:
        """Measure the rest.

        Args:
            accuracy: on the evaluation images, which `update` has seen too.

        Returns:
            Property (with `_` for `-`) to its figures; `not_measured`, the reason, where the artifact cannot show it.
        """
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "calibration": lambda: self._calibration(cast(Accuracy, accuracy)),
            "shape-bias": self._shape_bias,
            "attention-rank": self._attention_rank,
            "corruptions": self._corruptions,
        }
        found: dict[str, Any] = {}
        for name, one in PROPERTIES.items():
            if name in self.cannot and name in self.options.properties:
                found[one.key] = {"not_measured": self.cannot[name]}
            elif name in self.options.properties:
                found[one.key] = measures[name]() if one.measure is None else one.measure(self)
        return found

    def _fit(self) -> tuple[float, dict[str, Any]]:
        """Fit a temperature on calibration images."""
        judged = self.loader.source
        source = open_data(judged.spec, self.options.calib_split, role="calibrate")
        if source.split == judged.split:
            raise UsageError(
                "The temperature would be fitted on the images that it is judged on.",
                where=f"{source.spec}, split {source.split}" if source.split else source.spec,
                hint=f"Name other images with {parameter('calib_split')}, or others to judge it on with "
                f"{parameter('split')}.",
            )
        loader = self._images(source, sample_indices(len(source), self.options.calib_images, seed=0))
        pairs = [
            (run_batch(self.runtime, batch.images.numpy()), batch.labels.numpy())
            for batch in track(loader, "Fitting the temperature", len(loader))
        ]
        logits, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        if not np.isfinite(logits).all():
            raise ArtifactError(
                "Logits are NaN or infinite, so no temperature can be fitted.",
                where=self.runtime.info.name,
                hint=f"Leave {parameter('fit_temperature')} out.",
            )
        return fit_temperature(logits, labels), {"split": source.split, "images": len(labels)}

    def _calibration(self, accuracy: Accuracy) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "bins": self.binning.bins,
            "binning": self.binning.scheme,
            "scaled": None,
        }
        if self.scaled is not None:
            figures["scaled"] = {"temperature": self.temperature, **self.fitted_on, **self._calibrated(self.scaled)}
        return figures | self._calibrated(accuracy)

    def _calibrated(self, accuracy: Accuracy) -> dict[str, Any]:
        """Figures with their intervals as [value, low, high], and the reliability diagram."""
        figures, intervals = accuracy.to_dict(), accuracy.intervals(self.confidence)
        triples = {name: list(intervals.get(name, (figures[name], None, None))) for name in ("ece", "nll", "brier")}
        return {**triples, **accuracy.diagram()}

    def _shape_bias(self) -> dict[str, Any]:
        loader = self._images(self.stimuli, range(len(self.stimuli)), classes=len(self.stimuli))
        numbers: list[int] = []  # of the stimuli that could be decoded
        decisions: list[str] = []
        for batch in track(loader, "Stimuli", len(loader)):
            numbers += batch.labels.tolist()
            decisions += decide(run_batch(self.runtime, batch.images.numpy()), self.categories)
        shapes, textures = ([cues[i] for i in numbers] for cues in (self.stimuli.shapes, self.stimuli.textures))
        return {
            **shape_bias(shapes, textures, decisions, self.confidence),
            "no_conflict": self.stimuli.no_conflict,
            "skipped": loader.skipped,
            "source": self.stimuli.spec,
            "mapping": {name: list(classes) for name, classes in self.categories.items()},
        }

    def _attention_rank(self) -> dict[str, Any]:
        assert isinstance(self.runtime, TorchRuntime)
        model = self.runtime.model
        torch.set_num_threads(self.runtime.threads)
        by_mask: list[dict[str, Any]] = []
        for mask in dict.fromkeys(self.options.masks):
            loader = self._some(self.options.rank_images)
            batches = (batch.images for batch in track(loader, f"Attention rank, {mask}", len(loader)))
            by_mask.append({"mask": mask, **measure_attention_rank(model, batches, parse_mask(mask))})
        return {"masks": by_mask}

    def _corruptions(self) -> dict[str, Any]:
        names, severities = corruption_names(self.options.corruptions), sorted(set(self.options.severities))
        batches = list(self._some(self.options.corruption_images))
        conditions = [(name, severity) for name in names for severity in severities]
        top1: dict[str, list[float]] = {name: [] for name in names}
        for name, severity in track(conditions, "Corruptions", len(conditions)):
            top1[name].append(100 * float(np.mean(self._correct(batches, name, severity))))
        return {
            "images": sum(len(batch.labels) for batch in batches),
            "severities": severities,
            "clean": 100 * float(np.mean(self._correct(batches))),
            "top1": top1,
            "mean": float(np.mean(list(top1.values()))),
        }

    def _correct(self, batches: Sequence[Batch], name: str | None = None, severity: int = 0) -> np.ndarray:
        """Whether the first guess is right, image by image, as they are or corrupted."""
        right, first = [], 0
        for batch in batches:
            images = batch.images if name is None else self.corruptor(batch.images, name, severity, first)
            first += len(images)
            logits = run_batch(self.runtime, images.numpy())
            right.append((logits.argmax(1) == batch.labels.numpy()) & np.isfinite(logits).all(1))
        return np.concatenate(right)

    def _some(self, count: int) -> Loader:
        """A fixed draw of the evaluation images."""
        indices = self.loader.indices
        return self._images(self.loader.source, [indices[i] for i in sample_indices(len(indices), count, seed=0)])

    def _images(self, source: Source, indices: Sequence[int], *, classes: int | None = None) -> Loader:
        """Prepared as the evaluation images are, in batches of the same size."""
        return Loader(
            source,
            self.preprocessing,
            classes=classes or self.loader.classes,
            names=self.loader.names,
            batch_size=self.loader.batch_size,
            indices=indices,
            skip_broken=self.loader.skip_broken,
        )
