"""Targets: a folder for each, which owns everything about it: the form of the network that its runtime is fastest with,
the formats it has kernels for, writing, proving, opening and running its files, and what this machine lacks for it.

To add one: a folder with a `TARGET` in it (`target.py` says what that is), and a line in `..target_names`.
"""

from __future__ import annotations

from importlib import import_module

from ..target_names import LINES, find_line
from .target import LayerTable, Missing, Opening, Target, TargetState

__all__ = ["ALL", "TARGETS", "LayerTable", "Missing", "Opening", "Target", "TargetState", "find_target"]

#: Every target by its name.
ALL: dict[str, Target] = {line.name: import_module(f".{line.folder}", __name__).TARGET for line in LINES}
#: Those that files are written for.
TARGETS: dict[str, Target] = {line.name: ALL[line.name] for line in LINES if line.flag}


def find_target(name: str, *, exports: bool = False) -> Target:
    """A target by its name or an alias.

    Raises:
        UsageError: there is none of that name, or nothing is exported for it and `exports` is asked for.
    """
    return ALL[find_line(name, exports=exports).name]
