"""The summary of a CI job: GitHub shows what a step appends to the file named by `GITHUB_STEP_SUMMARY`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .renderers.markdown import render_markdown, render_short

__all__ = ["LIMIT", "append_summary"]

#: Bytes that GitHub takes from one step; above, it shows nothing at all.
LIMIT = 1024 * 1024
VARIABLE = "GITHUB_STEP_SUMMARY"


def append_summary(report: dict[str, Any]) -> Path | None:
    """Append a report's Markdown where the variable is set, without its details if they would not fit.

    Returns:
        The file, or None where none is named or it cannot be written (which is no reason to fail a check).
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    path = Path(named)
    try:
        room = LIMIT - (path.stat().st_size if path.exists() else 0)
        for text in (render_markdown(report), render_short(report) + "\n"):
            if len(text.encode()) < room:
                with path.open("a", encoding="utf-8") as file:
                    file.write(text)
                return path
    except OSError:
        pass
    return None
