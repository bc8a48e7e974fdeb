"""The page of `evaluate --html`: figures of one artifact, and its properties."""

from __future__ import annotations

from typing import Any

from .html import page
from .property_charts import Shown, describe_properties, reliability_charts

__all__ = ["render_properties"]

#: Names of figures on the page, in order, and how many digits follow the point.
FIGURES = {"top1": ("top-1 %", 2), "top5": ("top-5 %", 2), "ece": ("ECE", 4), "nll": ("NLL", 4), "brier": ("Brier", 4)}
FIGURES |= {"miou": ("mIoU %", 2), "pixel_accuracy": ("pixel accuracy %", 2), "mean_accuracy": ("mean accuracy %", 2)}
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
