"""One loop for float networks and for quantized ones."""

from .images import Images, TensorImages, TimmImages, pipeline
from .learned import freeze, make_trainable
from .loop import Trainer
from .processes import Processes, join_processes
from .recipe import TrainRecipe
from .run import RunDirectory

__all__ = [
    "Images",
    "Processes",
    "RunDirectory",
    "TensorImages",
    "TimmImages",
    "TrainRecipe",
    "Trainer",
    "freeze",
    "join_processes",
    "make_trainable",
    "pipeline",
]
