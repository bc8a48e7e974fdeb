"""Which formats run on which target, as a table for people."""

from __future__ import annotations

from ..formats import FORMATS
from . import TARGETS

__all__ = ["target_rows"]


def target_rows() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: target, format, the kernel that runs it, or why there is none and what is nearest."""
    rows: list[tuple[str, ...]] = []
    for target in TARGETS.values():
        for name in FORMATS:
            if (runs := target.runs(name)) is not None:
                rows.append((target.runtime, name, "yes", runs, ""))
            else:
                gap = target.gap(name)
                rows.append((target.runtime, name, "simulated" if gap.can_simulate else "no", gap.why, gap.instead()))
    return ("target", "format", "kernel", "what runs it, or why not", "nearest"), rows
