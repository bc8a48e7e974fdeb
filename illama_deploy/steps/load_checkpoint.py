"""A checkpoint as a torch module."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import EMBEDDED, read_checkpoint
from ..model.illama import Illama
from ..quant import load_quantized
from ..quant.artifact import MANIFEST

__all__ = ["load_checkpoint"]


def load_checkpoint(
    path: str | Path = EMBEDDED,
    *,
    heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    ema: bool = False,
) -> Illama:
    """Load a float checkpoint (`.pth`, `.safetensors`, `digits`), or a quantized directory in simulation.

    Args:
        heads, image_size, ema: of a float checkpoint: number of heads (dim / 64), another input size than
            trained (interpolates the position embedding), the averaged weights.

    Returns:
        The network in evaluation mode: normalised images [B, C, H, W] to logits [B, classes].

    Raises:
        DeployError: not there, damaged, would run code, or no iLLaMA.
    """
    if Path(path).is_dir() and (Path(path) / MANIFEST).is_file():
        return load_quantized(path).model
    return read_checkpoint(path, heads=heads, image_size=image_size, ema=ema).build()
