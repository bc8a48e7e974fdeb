"""Corrupted images, by the `imagecorruptions` library (the extra `corruptions`): ImageNet-C's, severity 1 to 5.

As in ImageNet-C the network's input is corrupted, after resize and crop. Severities are made for inputs of 224 px; on
smaller ones the same numbers do more.
Source: D. Hendrycks, T. Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions*, ICLR 2019.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RuntimeUnavailableError, UsageError, parameter
from ..preprocessing import Preprocessing

__all__ = ["MIN_SIDE", "Corruptor", "corruption_names"]

#: The library takes no smaller images.
MIN_SIDE = 32


def _library() -> ModuleType:
    try:
        import imagecorruptions
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"Images cannot be corrupted here: {error}.", hint="pip install 'illama-deploy[corruptions]'"
        ) from error
    return imagecorruptions


def corruption_names(chosen: Sequence[str] = ()) -> list[str]:
    """The corruptions to use: ImageNet-C's 15, or those that are named.

    Raises:
        UsageError: no such corruption.
        RuntimeUnavailableError: the library is not installed.
    """
    known = _library().get_corruption_names("all")
    if unknown := [name for name in chosen if name not in known]:
        raise UsageError(f"There is no corruption {unknown[0]!r}.", hint=f"Use some of: {', '.join(known)}.")
    return list(dict.fromkeys(chosen)) or list(_library().get_corruption_names("common"))


class Corruptor:
    """Corrupts preprocessed batches, each image by a random stream of its own: the same images give the same result.

    Raises:
        UsageError: the network's input is smaller than the library takes, or neither grey nor RGB.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        if min(preprocessing.size) < MIN_SIDE or preprocessing.channels not in (1, 3):
            raise UsageError(
                f"Corruptions take grey or RGB images from {MIN_SIDE} px on; this network takes "
                f"{preprocessing.channels} channels of {preprocessing.size[0]}×{preprocessing.size[1]} px.",
                hint=f"Leave corruptions out of {parameter('properties')}.",
            )
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def __call__(self, images_BCHW: Tensor, name: str, severity: int, first: int) -> Tensor:
        """Corrupt a batch whose first image is number `first`."""
        pixels = ((images_BCHW * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        corrupted = [
            torch.from_numpy(_corrupt(one.permute(1, 2, 0).numpy(), name, severity, first + i)).permute(2, 0, 1)
            for i, one in enumerate(pixels)
        ]
        return (torch.stack(corrupted).float() / 255 - self.mean) / self.std


def _corrupt(image_HWC: np.ndarray, name: str, severity: int, number: int) -> np.ndarray:
    library = _library()
    seed = zlib.crc32(f"{name} {severity} {number}".encode())
    function = library.corruption_dict[name]
    # Some corruptions draw from numpy's global stream, some take a seed.
    options: dict[str, Any] = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        found: np.ndarray = library.corrupt(image_HWC, severity=severity, corruption_name=name, **options)
    finally:
        np.random.set_state(state)
    return np.array(found[..., : image_HWC.shape[2]])  # a copy: what the library gives may be read-only
