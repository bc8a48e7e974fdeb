"""Segmentation: classification of every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..task_names import LINES
from .task import Measured, OnSample, Task

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..data import Batch, Loader, Scene
    from ..measure import Binning, Interval, PixelAccuracy, Sliding
    from ..model.network import Network
    from ..runtime import Runtime
    from ..training import Images, Processes, TrainRecipe

__all__ = ["TASK"]


@dataclass(frozen=True, kw_only=True)
class _Segmentation(Task):
    def loader(self) -> type[Loader]:
        from ..data import Scenes

        return Scenes

    def training_images(self, recipe: TrainRecipe, numbers: int) -> type[Images]:
        from ..training import DenseImages

        return DenseImages

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
        from ..data import Scenes
        from ..measure import Sliding, measure_segmentation
        from ..progress import track

        assert isinstance(loader, Scenes)
        scenes: Iterable[Scene] = track(loader.scenes(), "Evaluating", len(loader))
        if digest is not None:
            scenes = _hashed(scenes, digest)
        return Measured(*measure_segmentation(runtimes, scenes, sliding or Sliding(), loader.batch_size, on_sample))

    def measure_held_out(
        self, model: Network, held_out: Iterable[Batch] | Loader, processes: Processes
    ) -> dict[str, Any]:
        from ..data import Scenes
        from ..measure.held_out import measure_pixels

        assert isinstance(held_out, Scenes)
        return measure_pixels(model, held_out, processes)

    def drop_from(self, reference: PixelAccuracy, accuracy: PixelAccuracy, confidence: float) -> Interval:
        from ..measure import miou_drop

        return miou_drop(reference.confusions, accuracy.confusions, confidence)

    def drop_since(self, then: Mapping[str, Any], now: Mapping[str, Any], confidence: float) -> Interval:
        from ..measure import miou_drop, unpack_confusions

        if len(then["iou"]) != len(now["iou"]):
            raise ValueError("they had other classes")
        before, after = (unpack_confusions(a["confusions"], len(a["iou"]), a["images"]) for a in (then, now))
        return miou_drop(before, after, confidence)

    def named(self, figures: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        return {**figures, "iou": dict(zip(names, figures["iou"], strict=True))}

    def not_finite(self, accuracy: Mapping[str, Any]) -> str:
        return f"{accuracy['not_finite']} pixels"

    def kept(self, accuracy: PixelAccuracy) -> dict[str, Any]:
        from ..measure import pack_confusions

        return {"confusions": pack_confusions(accuracy.confusions)}

    def schema(self) -> dict[str, Any]:
        percent = {"$ref": "#/$defs/percent"}
        return {
            "description": "Where pixels are classified",
            "required": ["miou", "pixel_accuracy", "mean_accuracy", "iou", "confusions"],
            "properties": {
                "miou": percent,
                "pixel_accuracy": percent,
                "mean_accuracy": percent,
                "iou": {
                    "description": "By class; null of one that neither labels nor predictions show",
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {"oneOf": [{"type": "null"}, percent]},
                },
                "confusions": {
                    "description": "Image by image, pixels by label (rows) and prediction (columns; the last: no "
                    "number), int32, deflated, in base64",
                    "type": "string",
                },
            },
        }

    def draw(self, sample: Scene, output: Tensor, names: Sequence[str]) -> Image:
        from .overlay import draw_classes

        return draw_classes(sample.image, output.argmax(0).numpy(), names)

    def small_pictures(
        self, sample: Scene, outputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> list[dict[str, str]]:
        from .pictures import draw_small

        drawn = {"labels": sample.labels, **{name: output.argmax(0).numpy() for name, output in outputs.items()}}
        return [
            {"image": Path(sample.name).name, "shows": shows, "uri": draw_small(sample.image, classes, names)}
            for shows, classes in drawn.items()
        ]


def _hashed(scenes: Iterable[Scene], digest: Any) -> Iterator[Scene]:
    """Hash whole images, as decoded, and labels on their way."""
    import numpy as np

    for scene in scenes:
        digest.update(np.asarray(scene.image).tobytes())
        digest.update(scene.labels.tobytes())
        yield scene


TASK = _Segmentation(
    line=LINES[1],
    counted="pixels",
    does="classifies pixels",
    drop="miou_drop",
    drop_gate="miou_drop",
    change_gate="miou_change",
    least_gate="min_miou",
    figures=(
        ("miou", "mIoU %", 2),
        ("pixel_accuracy", "pixel accuracy %", 2),
        ("mean_accuracy", "mean accuracy %", 2),
    ),
    batch_size=8,
    qat_recipe="qat-segmentation",
    options=(("sliding", ("stride", "scales", "flip")), ("draw", ("draw",))),
    cannot_show=frozenset({"calibration", "shape-bias", "corruptions"}),
)
