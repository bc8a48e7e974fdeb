"""The report's tables on the terminal."""

from __future__ import annotations

from typing import Any

from .rows import GATE_COLUMNS, artifact_columns, artifact_rows, gate_rows

__all__ = ["print_report", "print_table"]

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def print_report(report: dict[str, Any]) -> None:
    """Print both tables and the verdict to standard output."""
    from rich.console import Console

    print_table(artifact_columns(report), artifact_rows(report), left=3)
    print_table(GATE_COLUMNS, gate_rows(report), left=len(GATE_COLUMNS))
    for note in report["notes"]:
        Console(width=_width(), highlight=False).print(f"- {note}", markup=False)
    verdict = report["verdict"]
    Console(width=_width(), highlight=False).print(f"Verdict: [bold {COLOURS[verdict]}]{verdict.upper()}[/]")


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]], left: int = 1) -> None:
    """Print rows, verdicts in colour; the first `left` columns align left, the rest right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        # As Text: what stands in brackets is no markup.
        table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in row))
    Console(width=_width(), highlight=False).print(table)


def _width() -> int | None:
    """The terminal's own width; where there is none (a log), enough for every column."""
    import sys

    return None if sys.stdout.isatty() else 160
