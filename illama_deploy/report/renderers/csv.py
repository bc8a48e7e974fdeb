"""`report.csv`: a line per artifact and batch size, figures in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from ...console import one_line
from ...tasks import TASKS, Task

__all__ = ["COLUMNS", "render_csv"]

#: The first ones stay where they are, for who reads them by number; those of further tasks follow.
_FIRST = (
    *("created", "fingerprint", "role", "target", "artifact", "format", "backend", "provider", "size_bytes", "sha256"),
    *("images", "top1", "top1_low", "top1_high", "top5", "ece", "ece_low", "ece_high", "nll", "brier"),
    *("top1_drop", "top1_drop_low", "top1_drop_high", "agreement", "agreement_low", "agreement_high", "logit_sqnr_db"),
    *("batch", "threads", "rounds", "p50_ms", "p90_ms", "p99_ms", "images_per_s", "cv", "outliers", "drift"),
    *("ratio", "ratio_low", "ratio_high", "ratio_to", "not_measured"),
    *("miou", "miou_low", "miou_high", "pixel_accuracy", "mean_accuracy"),
    *("miou_drop", "miou_drop_low", "miou_drop_high"),
)


def _of(task: Task) -> Iterator[str]:
    """A task's columns: its figures and comparisons, and the bounds of the one that is gated and of its drop."""
    for key in (*(key for key, _, _ in task.figures), task.drop, *(key for key, _, _ in task.compared)):
        yield from (key, f"{key}_low", f"{key}_high") if key in (task.figure, task.drop) else (key,)


COLUMNS = tuple(dict.fromkeys((*_FIRST, *(column for task in TASKS.values() for column in _of(task)))))


def render_csv(report: dict[str, Any]) -> str:
    """Render `report.json`'s content; what is not known is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for artifact in report["artifacts"]:
        info, accuracy, comparison = artifact["info"], artifact["accuracy"] or {}, artifact["comparison"] or {}
        row: dict[str, Any] = {
            "created": report["created"],
            "fingerprint": report["environment"]["fingerprint"],
            "role": artifact["role"],
            "target": artifact["target"],
            "not_measured": artifact.get("not_measured"),
            **info,
            "artifact": info["name"],
            **accuracy,
            **comparison,
            **_bounds(accuracy),
            **_bounds(comparison),
        }
        for latency in artifact["latency"] or [{}]:
            writer.writerow({key: _cell(value) for key, value in {**row, **latency}.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula: one that begins like it gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "|", "%")) else text


def _bounds(figures: dict[str, Any]) -> dict[str, float]:
    return {
        f"{name}_{side}": bound
        for name, interval in figures.get("intervals", {}).items()
        for side, bound in zip(("low", "high"), interval, strict=True)
    }
