"""A checkpoint as a torch module."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ...checkpoint import EMBEDDED, EMBEDDED_FILE, Checkpoint, read_checkpoint
from ...errors import ArtifactError, CheckpointError
from ...hashing import sha256_file
from ...memory import path_of
from ...model.network import Network
from ...quant import QuantizedArtifact, load_quantized
from ...quant.artifact import MANIFEST

__all__ = ["checkpoint_path", "embedded_sha256", "load_checkpoint", "read_source"]


def load_checkpoint(
    path: str | Path = EMBEDDED,
    *,
    heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    ema: bool = False,
    model: str | None = None,
    num_classes: int | None = None,
) -> Network:
    """Load a float checkpoint (`.pth`, `.safetensors`, a hub's folder, `digits`), or a quantized directory in
    simulation.

    Args:
        heads, image_size, ema, model, num_classes: of a float checkpoint: number of an iLLaMA's heads (dim / 64),
            another input size than trained (interpolates the position embedding), the averaged weights, timm's name of
            the architecture where the file has none, 0 for features without a classifier.

    Returns:
        The network in evaluation mode: normalised images [B, C, H, W] to logits [B, classes].

    Raises:
        DeployError: not there, damaged, would run code, or no network that is known.
    """
    if Path(path).is_dir() and (Path(path) / MANIFEST).is_file():
        return load_quantized(path).model
    sizes: dict[str, Any] = {"heads": heads, "image_size": image_size}
    return read_checkpoint(path, **sizes, ema=ema, model=model, num_classes=num_classes).build()


def read_source(artifact: QuantizedArtifact, source: str | Path | None, hint: str) -> Checkpoint:
    """Read the float checkpoint that an artifact was made from.

    Args:
        source: where it lies now; where it was read on this machine, if not given.
        hint: what to do where it cannot be read.

    Raises:
        CheckpointError: it cannot be read.
        ArtifactError: it is another one.
    """
    origin = artifact.manifest["source"]
    config = artifact.model.config
    try:
        checkpoint = read_checkpoint(source or checkpoint_path(artifact), **config.opening(), ema=origin["ema"])
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


@cache
def embedded_sha256() -> str:
    """The hash of the embedded network's file."""
    return sha256_file(EMBEDDED_FILE)


def checkpoint_path(artifact: QuantizedArtifact) -> Path | str:
    """Where the float checkpoint of an artifact was read on this machine.

    Raises:
        CheckpointError: it never was.
    """
    origin = artifact.manifest["source"]
    path: Path | str | None = EMBEDDED if origin["sha256"] == embedded_sha256() else path_of(origin["sha256"])
    if path is None:
        raise CheckpointError(
            f"Where {origin['name']!r} lies is not known on this machine.", hint="Name the float checkpoint."
        )
    return path
