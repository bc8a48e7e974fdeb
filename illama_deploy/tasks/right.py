"""Right or wrong, image by image, as reports keep it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..measure import Interval

__all__ = ["RIGHT", "drop_of_kept", "faults_of_kept"]

#: What a report's schema says of it.
RIGHT = {
    "description": "Right (1) or wrong (0) image by image, 8 to a byte, most significant bit first, in base64",
    "type": "string",
}


def drop_of_kept(then: Mapping[str, Any], now: Mapping[str, Any], confidence: float) -> Interval:
    """The drop between what two reports keep, in points."""
    from ..measure import paired_drop, unpack_correct

    was_right, is_right = (unpack_correct(a["correct"], a["images"]) for a in (then, now))
    return paired_drop(was_right, is_right, confidence)


def faults_of_kept(accuracy: Mapping[str, Any], images: int) -> Iterator[str]:
    """What is wrong with it in a report of so many images, half a sentence."""
    if "correct" in accuracy:
        try:
            held = len(base64.b64decode(accuracy["correct"], validate=True))
        except (binascii.Error, ValueError):
            held = -1
        if held != -(-images // 8):
            yield f"does not say for {images} images whether they are right"
