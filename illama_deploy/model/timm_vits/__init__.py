"""timm's vision transformers as networks of ours: one file a class of timm's, and one line here.

timm makes the float network by name; its modules say what it is (`Reading`), or why it is not covered.
"""

from __future__ import annotations

from torch import nn

from .eva import EVA
from .make import initial_state, make_on_meta
from .names import covered_modules, covered_names, find_architecture, nearest_names
from .reading import Reader, Reading, UnsupportedError
from .vision_transformer import DISTILLED, VISION_TRANSFORMER

__all__ = [
    "READERS",
    "Reader",
    "Reading",
    "UnsupportedError",
    "covered_modules",
    "covered_names",
    "find_architecture",
    "initial_state",
    "make_on_meta",
    "nearest_names",
    "read_timm",
    "reader_of",
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
    return reader_of(model).read(name, model)


def reader_of(model: nn.Module) -> Reader:
    """How networks of its class are read.

    Raises:
        UnsupportedError: they are not.
    """
    reader = READERS.get(type(model))
    if reader is None:
        raise UnsupportedError(f"networks of the class {type(model).__name__} are not read")
    return reader
