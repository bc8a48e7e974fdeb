"""timm's vision transformers as networks of ours: one file a class of timm's, and one line here.

timm makes the float network by name; its modules say what it is (`Reading`), or why it is not covered.
"""

from __future__ import annotations

from torch import nn

from .eva import EVA
from .names import covered_modules, find_architecture, nearest_names
from .reading import Reading, UnsupportedError
from .vision_transformer import DISTILLED, VISION_TRANSFORMER

__all__ = [
    "READERS",
    "Reading",
    "UnsupportedError",
    "covered_modules",
    "find_architecture",
    "nearest_names",
    "read_timm",
]

#: By the class of the network.
READERS = {reader.kind: reader for reader in (VISION_TRANSFORMER, DISTILLED, EVA)}


def read_timm(name: str, model: nn.Module) -> Reading:
    """What a network that timm made is.

    Args:
        model: values do not matter, it may be on the device `meta`.

    Raises:
        UnsupportedError: it has something that is not covered; the text says what.
    """
    reader = READERS.get(type(model))
    if reader is None:
        raise UnsupportedError(f"networks of the class {type(model).__name__} are not read")
    return reader.read(name, model)
