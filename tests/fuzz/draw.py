"""What an edit draws from, and what an edit is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Draw", "Edit", "edit"]


@dataclass(frozen=True)
class Draw:
    """The luck of one mutant.

    Attributes:
        trap: a named pipe that nobody writes to; who opens it is seen.
        marker: a path that code hidden in a file would create.
        others: files to splice with.
    """

    rng: random.Random
    trap: Path
    marker: Path
    others: Sequence[Path]


@dataclass(frozen=True)
class Edit:
    """One way to change a file's bytes.

    Attributes:
        whole: what comes out is a file that somebody could have written like that, not a damaged one.
    """

    name: str
    change: Callable[[bytes, Draw], bytes]
    whole: bool


def edit(change: Callable[[bytes, Draw], bytes], *, whole: bool = False) -> Edit:
    """Name an edit after its function."""
    return Edit(change.__name__.strip("_"), change, whole)
