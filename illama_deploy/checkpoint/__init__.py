"""Trained float checkpoints: read safely, geometry inferred from the tensors."""

from .geometry import infer_config, interpolate_positions, resample_patches
from .load import Checkpoint, find_checkpoint, read_checkpoint
from .metadata import EMBEDDED, EMBEDDED_FILE
from .save import save_checkpoint
from .weight_selection import Selected, select_weights

__all__ = [
    "EMBEDDED",
    "EMBEDDED_FILE",
    "Checkpoint",
    "Selected",
    "find_checkpoint",
    "infer_config",
    "interpolate_positions",
    "read_checkpoint",
    "resample_patches",
    "save_checkpoint",
    "select_weights",
]
