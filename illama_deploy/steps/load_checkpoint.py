"""A checkpoint as a torch module."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import EMBEDDED, Checkpoint, read_checkpoint
from ..errors import ArtifactError, CheckpointError
from ..model.illama import Illama
from ..quant import QuantizedArtifact, load_quantized
from ..quant.artifact import MANIFEST

__all__ = ["load_checkpoint", "read_source"]


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


def read_source(artifact: QuantizedArtifact, source: str | Path | None, hint: str) -> Checkpoint:
    """Read the float checkpoint that an artifact was made from.

    Args:
        source: where it lies now; where `quantize` read it, if not given.
        hint: what to do where it cannot be read.

    Raises:
        CheckpointError: it cannot be read.
        ArtifactError: it is another one.
    """
    origin = artifact.manifest["source"]
    config = artifact.model.config
    try:
        checkpoint = read_checkpoint(
            source or origin["path"], heads=config.heads, image_size=config.image_size, ema=origin["ema"]
        )
    except CheckpointError as error:
        raise CheckpointError(
            f"The float checkpoint cannot be read: {error.what}", where=error.where, hint=hint
        ) from error
    if checkpoint.sha256 != origin["sha256"]:
        raise ArtifactError(
            "The float checkpoint is not the one that was quantized (its hash differs).",
            where=checkpoint.path,
            hint=hint,
        )
    return checkpoint
