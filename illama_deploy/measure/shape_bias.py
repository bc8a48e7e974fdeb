"""Shape or texture: what an artifact goes by where the two say different things.

Source: R. Geirhos et al., *ImageNet-trained CNNs are biased towards texture*, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .reliability import log_softmax
from .statistics import bootstrap

__all__ = ["decide", "shape_bias"]


def decide(logits: np.ndarray, categories: Mapping[str, Sequence[int]]) -> list[str]:
    """For each image, the category whose classes are the most probable on average; "" where a logit is no number.

    Args:
        logits: [images, classes].
        categories: name to class numbers.
    """
    finite = np.isfinite(logits).all(1)
    p = np.exp(log_softmax(np.where(finite[:, None], logits, 0.0)))
    means = np.stack([p[:, list(classes)].mean(1) for classes in categories.values()], 1)
    names = list(categories)
    return [names[best] if known else "" for best, known in zip(means.argmax(1), finite, strict=True)]


def shape_bias(
    shapes: Sequence[str], textures: Sequence[str], decisions: Sequence[str], confidence: float = 0.95
) -> dict[str, Any]:
    """Count decisions by shape, by texture and by neither; overall, and by the category of the shape.

    Args:
        shapes, textures, decisions: categories, image by image.

    Returns:
        Of all, and under `categories` of each: `stimuli`, `shape`, `texture`, `neither`, and the shape `ratio`, shape /
        (shape + texture), with its bootstrap interval over the decided images, as [value, low, high]; None where none
        is decided.
    """
    shape, texture, decided = (np.array(values) for values in (shapes, textures, decisions))
    every = np.ones(len(shape), dtype=bool)
    counted = {
        name: _count((decided == shape)[at], (decided == texture)[at], confidence)
        for name, at in [("", every), *((name, shape == name) for name in sorted(set(shapes)))]
    }
    return {**counted.pop(""), "categories": counted}


def _count(by_shape: np.ndarray, by_texture: np.ndarray, confidence: float) -> dict[str, Any]:
    chosen = by_shape[by_shape | by_texture]
    ratio = None
    if len(chosen):
        value, low, high = bootstrap(lambda at: float(chosen[at].mean()), len(chosen), confidence)
        ratio = [value, max(low, 0.0), min(high, 1.0)]
    return {
        "stimuli": len(by_shape),
        "shape": int(by_shape.sum()),
        "texture": int(by_texture.sum()),
        "neither": int(len(by_shape) - len(chosen)),
        "ratio": ratio,
    }
