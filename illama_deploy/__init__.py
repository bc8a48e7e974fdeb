"""Train and quantize iLLaMA, export it to ONNX and TensorRT, and prove what was shipped.

The pipeline, and the folders in its order: `checkpoint` → `model` → `rewrites` → `calib` → `rounding` →
`quant` → `training` → `export` → `runtime` → `measure` → `report`; `steps` holds one file per thing a user does, which
these functions are. Importing this package imports no torch; the functions do when they are first looked up.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    DeployError,
    ExportError,
    RecipeError,
    RuntimeUnavailableError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from .recipe import Recipe
    from .steps.bench import bench
    from .steps.check import check
    from .steps.demo import demo
    from .steps.evaluate import evaluate
    from .steps.export import export
    from .steps.qat import qat
    from .steps.quantize import quantize
    from .steps.shared.load_checkpoint import load_checkpoint
    from .steps.train import train
    from .training.recipe import TrainRecipe

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "DeployError",
    "ExportError",
    "Recipe",
    "RecipeError",
    "RuntimeUnavailableError",
    "TrainRecipe",
    "TrainingError",
    "UsageError",
    "bench",
    "check",
    "demo",
    "evaluate",
    "export",
    "load_checkpoint",
    "qat",
    "quantize",
    "train",
]

_LAZY = {
    "Recipe": "recipe",
    "TrainRecipe": "training.recipe",
    "load_checkpoint": "steps.shared.load_checkpoint",
    **{name: f"steps.{name}" for name in ("bench", "check", "demo", "evaluate", "qat", "quantize", "train")},
}


def __getattr__(name: str) -> Any:
    if name == "export":  # the sub-package of that name can be called, see there
        return importlib.import_module(f"{__name__}.export")
    if name in _LAZY:
        value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_with_timm() -> None:
    """Make `timm.create_model("illama_tiny")` work, now if timm is imported, else as soon as it is."""
    if "timm" in sys.modules:
        importlib.import_module(f"{__name__}.model.registry")
    else:
        from ._timm_hook import install

        install(f"{__name__}.model.registry")


_register_with_timm()
