"""The report's tables on the terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

from ..console import visible
from .rows import GATE_COLUMNS, artifact_columns, artifact_rows, gate_rows

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_report", "print_table"]

#: Columns that a table is not pressed below.
NARROWEST = 20
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def print_report(report: dict[str, Any]) -> None:
    """Print both tables and the verdict to standard output."""
    from rich.text import Text

    print_table(artifact_columns(report), artifact_rows(report), left=3)
    print_table(GATE_COLUMNS, gate_rows(report), left=len(GATE_COLUMNS))
    for note in report["notes"]:
        _console().print(Text(f"- {visible(note)}"))
    verdict = report["verdict"]
    _console().print(f"Verdict: [bold {COLOURS[verdict]}]{verdict.upper()}[/]")


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]], left: int = 1) -> None:
    """Print rows, verdicts in colour; the first `left` columns align left, the rest right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(Text(visible(column)), justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        # As Text: what stands in brackets is no markup.
        table.add_row(*(Text(visible(cell), COLOURS.get(cell, "")) for cell in row))
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(width=_width(), highlight=False, emoji=False)


def _width() -> int:
    """The terminal's own width, whatever `COLUMNS` says; where there is none (a log), enough for every column."""
    return max(shutil.get_terminal_size().columns, NARROWEST) if sys.stdout.isatty() else 160
