"""The page of `evaluate --html`: figures of one artifact, and its properties."""

from __future__ import annotations

from typing import Any

from ...tasks import TASKS
from .html import page
from .property_charts import Shown, describe_properties, reliability_charts

__all__ = ["render_properties"]

#: Names of figures on the page, in order, and how many digits follow the point.
FIGURES = {key: (title, digits) for task in TASKS.values() for key, title, digits in task.figures}
COMPARED = {"agreement": ("agreement %", 2), "logit_sqnr_db": ("logit SQNR dB", 1)}


def render_properties(evaluation: dict[str, Any]) -> str:
    """Render what `evaluate --json` writes."""
    info, properties = evaluation["artifact"], evaluation.get("properties", {})
    shown = Shown(1, f"{info['format']} on {info['backend']}", info["name"], properties)
    known = {key: about for key, about in (FIGURES | COMPARED).items() if key in evaluation}
    return page(
        "evaluation.html.j2",
        evaluation=evaluation,
        notes=evaluation.get("notes", []),
        figures=(
            tuple(title for title, _ in known.values()),
            [
                tuple(
                    "–" if evaluation[key] is None else f"{evaluation[key]:.{digits}f}"
                    for key, (_, digits) in known.items()
                )
            ],
        ),
        reliability=reliability_charts(shown) if "calibration" in properties else [],
        properties=describe_properties([shown]),
    )
