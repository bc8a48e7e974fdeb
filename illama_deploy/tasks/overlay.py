"""Predicted classes drawn over their image, in colours that tell neighbouring numbers apart."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["class_colors", "draw_classes"]

#: Turn of the colour circle from class to class: the golden angle meets no colour again.
TURN = 0.381966
#: Height of a line of the legend in pixels.
LINE = 14


def class_colors(count: int) -> np.ndarray:
    """Colours, uint8 [count, 3]: hues by the golden angle, in three lightnesses."""
    colors = [colorsys.hls_to_rgb(k * TURN % 1, (0.5, 0.35, 0.65)[k % 3], 0.9) for k in range(count)]
    return np.array([[round(255 * part) for part in color] for color in colors], np.uint8).reshape(count, 3)


def draw_classes(image: Image, classes: np.ndarray, names: Sequence[str], opacity: float = 0.55) -> Image:
    """Lay classes, ints [H, W], over an image of that size; the classes that are there are named below it.

    Args:
        names: of all classes, in label order. A class beyond them leaves its pixels as they are.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    colors = class_colors(len(names))
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    known = (classes >= 0) & (classes < len(names))
    pixels[known] += opacity * (colors[classes[known]] - pixels[known])
    shown = [int(k) for k in np.unique(classes[known])]
    columns = max(image.width // 90, 1)
    drawn = Pillow.new("RGB", (image.width, image.height + LINE * -(-len(shown) // columns)), "white")
    drawn.paste(Pillow.fromarray(pixels.round().astype(np.uint8)), (0, 0))
    pen = ImageDraw.Draw(drawn)
    for i, k in enumerate(shown):
        x, y = i % columns * (image.width // columns), image.height + LINE * (i // columns)
        pen.rectangle((x + 2, y + 2, x + LINE - 3, y + LINE - 3), fill=tuple(colors[k].tolist()))
        pen.text((x + LINE, y + 1), names[k], fill="black")
    return drawn
