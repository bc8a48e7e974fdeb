"""The page of `evaluate --html`: figures of one artifact, and its properties."""

from __future__ import annotations

from typing import Any

from ...tasks import TASKS
from .html import page
from .property_charts import Shown, describe_properties, reliability_charts

__all__ = ["render_properties"]


def render_properties(evaluation: dict[str, Any]) -> str:
    """Render what `evaluate --json` writes."""
    info, properties = evaluation["artifact"], evaluation.get("properties", {})
    shown = Shown(1, f"{info['format']} on {info['backend']}", info["name"], properties)
    task = next(task for task in TASKS.values() if task.figure in evaluation)
    known = [one for one in (*task.figures, *task.compared) if one[0] in evaluation]
    return page(
        "evaluation.html.j2",
        evaluation=evaluation,
        notes=evaluation.get("notes", []),
        figures=(
            tuple(title for _, title, _ in known),
            [tuple("–" if evaluation[key] is None else f"{evaluation[key]:.{digits}f}" for key, _, digits in known)],
        ),
        reliability=reliability_charts(shown) if "calibration" in properties else [],
        properties=describe_properties([shown]),
    )
