"""Features: what a network without a classifier gives out. Nothing in them is right or wrong by itself; what counts is
which images they hold alike, and, where there are labels, whether these are of one class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UsageError
from ..task_names import LINES
from .digest import hashed_batches
from .right import RIGHT, drop_of_kept, faults_of_kept
from .task import Measured, OnSample, Task

if TYPE_CHECKING:
    from ..data import Batch, Loader
    from ..measure import Binning, FeatureAccuracy, Interval, Sliding
    from ..model.network import Network
    from ..runtime import Runtime
    from ..training import Images, Processes, TrainRecipe

__all__ = ["TASK"]


@dataclass(frozen=True, kw_only=True)
class _Features(Task):
    def require_images(self, count: int) -> None:
        from ..measure import require_comparable

        require_comparable(count)

    def loader(self) -> type[Loader]:
        from ..data import Loader

        return Loader

    def training_images(self, recipe: TrainRecipe, numbers: int) -> type[Images]:
        self._untrained()

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
        from ..measure import measure_features
        from ..progress import track

        self.require_images(len(loader))
        batches: Iterable[Batch] = track(loader, "Evaluating", len(loader))
        if digest is not None:
            batches = hashed_batches(batches, loader.preprocessing, digest)
        return Measured(*measure_features(runtimes, batches, on_sample))

    def measure_held_out(
        self, model: Network, held_out: Iterable[Batch] | Loader, processes: Processes
    ) -> dict[str, Any]:
        self._untrained()

    def _untrained(self) -> NoReturn:
        raise UsageError(
            f"Training learns classes from labels, and this network {self.does}.", hint="Quantize it as it is."
        )

    def drop_from(self, reference: FeatureAccuracy, accuracy: FeatureAccuracy, confidence: float) -> Interval | None:
        from ..measure import paired_drop

        if reference.labels is None or accuracy.labels is None:
            return None
        return paired_drop(reference.correct, accuracy.correct, confidence)

    def drop_since(self, then: Mapping[str, Any], now: Mapping[str, Any], confidence: float) -> Interval:
        if "correct" not in then or "correct" not in now:
            raise ValueError("they have no labels")
        return drop_of_kept(then, now, confidence)

    def named(self, figures: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        return figures

    def not_finite(self, accuracy: Mapping[str, Any]) -> str:
        return f"{accuracy['not_finite']} of {accuracy['images']} images"

    def kept(self, accuracy: FeatureAccuracy) -> dict[str, Any]:
        from ..measure import pack_correct

        return {} if accuracy.labels is None else {"correct": pack_correct(accuracy.correct)}

    def schema(self) -> dict[str, Any]:
        return {
            "description": "Where features are given out",
            "required": ["knn", "k"],
            "properties": {
                "knn": {
                    "description": "Images whose class their k nearest others name; null where there are no labels",
                    "oneOf": [{"type": "null"}, {"$ref": "#/$defs/percent"}],
                },
                "k": {"type": "integer", "minimum": 1},
                "correct": RIGHT,
            },
        }

    def faults(self, accuracy: Mapping[str, Any], images: int) -> Iterator[str]:
        if (accuracy["knn"] is None) == ("correct" in accuracy):
            yield "has labels and has none"
        yield from faults_of_kept(accuracy, images)


TASK = _Features(
    line=LINES[2],
    counted="images",
    does="gives out features",
    drop="knn_drop",
    drop_gate="knn_drop",
    change_gate="knn_change",
    least_gate="min_knn",
    figures=(("knn", "kNN top-1 %", 2),),
    compared=(
        ("cosine", "cosine %", 3),
        ("agreement", "same nearest %", 2),
        ("neighbours", "same of 5 nearest %", 2),
        ("logit_sqnr_db", "feature SQNR dB", 1),
    ),
    batch_size=64,
    qat_recipe=None,
    options=(("save_logits", ("save_logits",)),),
    cannot_show=frozenset({"calibration", "shape-bias", "corruptions"}),
    needs_labels=False,
)
