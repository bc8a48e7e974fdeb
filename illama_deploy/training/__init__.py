"""One loop for float networks and for quantized ones."""

from .dense import DenseImages
from .images import Images, TensorImages, TimmImages, seed_everything
from .loop import Trainer
from .options import MEMORY, RunOptions
from .processes import Processes, join_processes
from .recipe import TrainRecipe, require_memory
from .run import RunDirectory, headline

__all__ = [
    "MEMORY",
    "DenseImages",
    "Images",
    "Processes",
    "RunDirectory",
    "RunOptions",
    "TensorImages",
    "TimmImages",
    "TrainRecipe",
    "Trainer",
    "headline",
    "join_processes",
    "require_memory",
    "seed_everything",
]
