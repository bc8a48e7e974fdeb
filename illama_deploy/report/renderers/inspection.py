"""The page of `inspect --html`: its table, and for a quantized checkpoint what each site costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .html import describe_bars, page

__all__ = ["render_inspection"]


class Table(Protocol):
    """What is shown."""

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> Sequence[tuple[str, ...]]: ...
    @property
    def summary(self) -> str: ...
    @property
    def figures(self) -> dict[str, Any]: ...


def render_inspection(name: str, table: Table) -> str:
    """Render what `inspect` found of an artifact."""
    bars = describe_bars(table.figures) if "sites" in table.figures else None
    return page("inspect.html.j2", name=name, table_of=table, bars=bars)
