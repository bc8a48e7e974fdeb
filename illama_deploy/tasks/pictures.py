"""Predictions drawn over a few images, small enough to stand in a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .overlay import draw_classes

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_small"]

#: Pixels, and JPEG's quality.
WIDTH, QUALITY = 240, 80


def draw_small(image: Image, classes: np.ndarray, names: Sequence[str]) -> str:
    """Classes, ints [H, W], over an image of that size, as a data URI of some ten kilobytes."""
    from PIL import Image as Pillow

    size = (WIDTH, max(round(WIDTH * image.height / image.width), 1))
    # Classes as 16-bit grey values: they are picked, not mixed. What is no class becomes one beyond the names.
    known = np.where((classes >= 0) & (classes < len(names)), classes, len(names)).astype(np.int32)
    small = np.asarray(Pillow.fromarray(known).resize(size, Pillow.Resampling.NEAREST))
    file = io.BytesIO()
    drawn = draw_classes(image.convert("RGB").resize(size, Pillow.Resampling.BILINEAR), small, names)
    drawn.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
