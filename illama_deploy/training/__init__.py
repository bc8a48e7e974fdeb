"""One loop for float networks and for quantized ones."""

from .images import Images, TensorImages, TimmImages, seed_everything
from .loop import Trainer
from .options import RunOptions
from .processes import Processes, join_processes
from .recipe import TrainRecipe
from .run import RunDirectory

__all__ = [
    "Images",
    "Processes",
    "RunDirectory",
    "RunOptions",
    "TensorImages",
    "TimmImages",
    "TrainRecipe",
    "Trainer",
    "join_processes",
    "seed_everything",
]
