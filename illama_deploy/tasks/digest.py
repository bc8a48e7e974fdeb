"""Hashes of the images that artifacts were measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import Batch
    from ..preprocessing import Preprocessing

__all__ = ["hashed_batches"]


def hashed_batches(batches: Iterable[Batch], preprocessing: Preprocessing, digest: Any) -> Iterator[Batch]:
    """Hash pixels and labels on their way: as bytes of 0 to 255, which no machine rounds differently."""
    import torch

    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    for batch in batches:
        pixels = ((batch.images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        digest.update(pixels.numpy().tobytes())
        digest.update(batch.labels.numpy().tobytes())
        yield batch
