"""Classification of whole images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..task_names import LINES
from .digest import hashed_batches
from .right import RIGHT, drop_of_kept, faults_of_kept
from .task import Measured, OnSample, Task

if TYPE_CHECKING:
    from ..data import Batch, Loader
    from ..measure import Accuracy, Binning, Interval, Sliding
    from ..model.network import Network
    from ..runtime import Runtime
    from ..training import Images, Processes, TrainRecipe

__all__ = ["TASK"]


@dataclass(frozen=True, kw_only=True)
class _Classification(Task):
    def loader(self) -> type[Loader]:
        from ..data import Loader

        return Loader

    def training_images(self, recipe: TrainRecipe, numbers: int) -> type[Images]:
        from ..training import MEMORY, TensorImages, TimmImages

        small = numbers <= MEMORY if recipe.pipeline == "auto" else recipe.pipeline == "tensor"
        return TensorImages if small else TimmImages

    def measure(
        self,
        runtimes: Sequence[Runtime],
        loader: Loader,
        on_sample: OnSample | None = None,
        *,
        sliding: Sliding | None = None,
        binning: Binning | None = None,
        digest: Any = None,
    ) -> Measured:
        from ..measure import PAPER_BINNING, measure_accuracy
        from ..progress import track

        batches: Iterable[Batch] = track(loader, "Evaluating", len(loader))
        if digest is not None:
            batches = hashed_batches(batches, loader.preprocessing, digest)
        return Measured(*measure_accuracy(runtimes, batches, on_sample, binning or PAPER_BINNING))

    def measure_held_out(
        self, model: Network, held_out: Iterable[Batch] | Loader, processes: Processes
    ) -> dict[str, Any]:
        from ..measure.held_out import measure_classes

        return measure_classes(model, held_out, processes)

    def drop_from(self, reference: Accuracy, accuracy: Accuracy, confidence: float) -> Interval:
        from ..measure import paired_drop

        return paired_drop(reference.correct, accuracy.correct, confidence)

    def drop_since(self, then: Mapping[str, Any], now: Mapping[str, Any], confidence: float) -> Interval:
        return drop_of_kept(then, now, confidence)

    def named(self, figures: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        return figures

    def not_finite(self, accuracy: Mapping[str, Any]) -> str:
        return f"{accuracy['not_finite']} of {accuracy['images']} images"

    def kept(self, accuracy: Accuracy) -> dict[str, Any]:
        from ..measure import pack_correct

        return {**accuracy.diagram(), "correct": pack_correct(accuracy.correct)}

    def schema(self) -> dict[str, Any]:
        percent = {"$ref": "#/$defs/percent"}
        return {
            "required": ["top1", "top5", "ece", "nll", "reliability", "correct"],
            "properties": {
                "top1": percent,
                "top5": percent,
                "ece": {
                    "description": "Expected calibration error, 0 to 1; 15 bins of equal width unless `edges` say "
                    "otherwise",
                    "type": "number",
                },
                "nll": {"type": "number"},
                "brier": {
                    "description": "Squared distance of the probabilities from the answer, 0 to 2",
                    "type": "number",
                },
                "reliability": {"$ref": "#/$defs/bins"},
                "edges": {
                    "description": "Of the bins, ascending; equal steps from 0 to 1 where not given",
                    "type": "array",
                    "items": {"type": "number"},
                },
                "correct": RIGHT,
            },
        }

    def faults(self, accuracy: Mapping[str, Any], images: int) -> Iterator[str]:
        if "edges" in accuracy and len(accuracy["edges"]) != len(accuracy["reliability"]) + 1:
            yield "has other bins than edges"
        yield from faults_of_kept(accuracy, images)


TASK = _Classification(
    line=LINES[0],
    counted="images",
    does="classifies images",
    drop="top1_drop",
    drop_gate="accuracy_drop",
    change_gate="accuracy_change",
    least_gate="min_top1",
    figures=(
        ("top1", "top-1 %", 2),
        ("top5", "top-5 %", 2),
        ("ece", "ECE", 4),
        ("nll", "NLL", 4),
        ("brier", "Brier", 4),
    ),
    batch_size=64,
    qat_recipe="qat",
    options=(("save_logits", ("save_logits",)),),
    searchable=True,
)
