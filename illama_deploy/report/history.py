"""Reports over time: drop and latency ratio of each candidate, by target and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ..tasks import task_of
from . import charts
from .renderers.html import page
from .renderers.markdown import MARKS, code, escape, table

__all__ = ["HISTORY_COLUMNS", "history_rows", "render_history"]

HISTORY_COLUMNS = ("made", "machine", "artifact", "format", "target", "accuracy %", "drop", "batch", "ratio", "verdict")


def render_history(reports: Sequence[dict[str, Any]], left_out: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Render reports, in any order, as file name to text: `history.html` and `history.md`.

    Args:
        left_out: files that could not be read, and why.
    """
    ordered = sorted(reports, key=lambda report: (report["created"], report["content_sha256"]))
    rows = history_rows(ordered)
    shown = table(HISTORY_COLUMNS, [(*row[:-1], f"{MARKS[row[-1]]} {row[-1]}") for row in rows])
    missing = "".join(f"- left out: {code(path)}: {escape(why)}\n" for path, why in left_out)
    html = page(
        "history.html.j2",
        reports=ordered,
        columns=HISTORY_COLUMNS,
        rows=rows,
        machines={r["environment"]["fingerprint"]: r["environment"]["cpu"] for r in ordered},
        legend=[(i % charts.COLOURS, name, label, False) for i, (name, label) in enumerate(_candidates(ordered))],
        trends=_trends(ordered),
        left_out=left_out,
    )
    return {
        "history.html": html,
        "history.md": f"# {len(ordered)} reports\n\n{shown}\n" + (f"\n{missing}" if missing else ""),
    }


def history_rows(reports: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per report, candidate and batch size, in the order of the reports."""
    rows: list[tuple[str, ...]] = []
    for report in reports:
        task = task_of(report)
        for artifact in _of(report):
            info, accuracy, comparison = artifact["info"], artifact["accuracy"], artifact["comparison"]
            head = (
                report["created"],
                report["environment"]["fingerprint"],
                info["name"],
                info["format"],
                artifact["target"],
                _shown(accuracy, task.figure),
                _shown(comparison, task.drop),
            )
            for latency in artifact["latency"] or [{"batch": "–", "ratio": None}]:
                ratio = "–" if latency["ratio"] is None else f"{latency['ratio']:.3f}"
                rows.append((*head, str(latency["batch"]), ratio, report["verdict"]))
    return rows


def _shown(figures: dict[str, Any] | None, key: str) -> str:
    return "–" if figures is None or figures[key] is None else f"{figures[key]:.2f}"


def _of(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [artifact for artifact in report["artifacts"] if artifact["role"] == "candidate"]


def _candidates(reports: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(name, format on target) of all candidates, in order of appearance."""
    found = (
        (artifact["info"]["name"], f"{artifact['info']['format']} on {artifact['target']}")
        for report in reports
        for artifact in _of(report)
    )
    return list(dict.fromkeys(found))


def _trends(reports: Sequence[dict[str, Any]]) -> list[tuple[str, Markup]]:
    """Title and chart: the drop, comparable everywhere, and the ratio at each batch size, machine by machine."""
    candidates = _candidates(reports)
    charted: list[tuple[str, Markup]] = []

    def add(title: str, y_title: str, series: dict[int, list[tuple[str, float, float, float]]], limit: float) -> None:
        lines = [charts.Series(candidates[i][1], i, points) for i, points in series.items()]
        if lines:
            charted.append((title, Markup(charts.trend(lines, y_title, limit))))

    settings = reports[-1]["settings"]
    drops: dict[int, list[tuple[str, float, float, float]]] = {}
    ratios: dict[tuple[str, int], dict[int, list[tuple[str, float, float, float]]]] = {}
    for report in reports:
        machine = report["environment"]["fingerprint"]
        for artifact in _of(report):
            key = candidates.index((artifact["info"]["name"], f"{artifact['info']['format']} on {artifact['target']}"))
            drop = task_of(report).drop
            if (comparison := artifact["comparison"]) is not None and comparison[drop] is not None:
                drops.setdefault(key, []).append((report["created"], comparison[drop], *comparison["intervals"][drop]))
            for latency in artifact["latency"]:
                if latency["ratio"] is not None:
                    figures = (report["created"], latency["ratio"], latency["ratio_low"], latency["ratio_high"])
                    ratios.setdefault((machine, latency["batch"]), {}).setdefault(key, []).append(figures)
    figures_of = " and ".join(dict.fromkeys(task_of(report).title for report in reports))
    add(f"Drop in {figures_of}", "points", drops, settings["max_drop"])
    for (machine, batch), series in sorted(ratios.items()):
        add(f"Latency ratio, batch {batch}, machine {machine}", "ratio", series, settings["max_latency_ratio"])
    return charted
