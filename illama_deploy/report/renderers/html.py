"""`report.html`: one file, no external resource, for a phone as well as a wide screen, dark or light."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ...console import visible
from ...tasks import Task, task_of
from .. import charts, notes
from ..gates import GATES
from ..rows import (
    GATE_COLUMNS,
    LAYER_COLUMNS,
    SITE_COLUMNS,
    TIMING_COLUMNS,
    accuracy_columns,
    accuracy_rows,
    artifact_columns,
    artifact_rows,
    class_columns,
    class_rows,
    gate_rows,
    layer_rows,
    precision_counts,
    site_rows,
    timing_rows,
)
from .property_charts import Shown, describe_properties

__all__ = ["describe_bars", "page", "render_html"]

#: Sites that are shown unfolded: those that cost most.
MOST_SITES = 12


def render_html(report: dict[str, Any]) -> str:
    """Render `report.json`'s content."""
    shown = [(i, artifact) for i, artifact in enumerate(report["artifacts"]) if artifact["accuracy"] is not None]
    task = task_of(report)
    known = [(i, artifact) for i, artifact in shown if artifact["accuracy"][task.figure] is not None]
    batches = sorted({latency["batch"] for _, artifact in shown for latency in artifact["latency"]})
    return page(
        "report.html.j2",
        report=report,
        headline=notes.headline(report),
        legend=_legend(report),
        gate_columns=GATE_COLUMNS,
        gates=[
            (row, None if gate["value"] is None else _bar(gate))
            for gate, row in zip(report["gates"], gate_rows(report), strict=True)
        ],
        tables={
            "artifacts": (artifact_columns(report), artifact_rows(report)),
            "accuracy": (accuracy_columns(report), accuracy_rows(report)),
            "classes": (class_columns(report), class_rows(report)),
            "timing": (TIMING_COLUMNS, timing_rows(report)),
        },
        scatters=[(batch, _scatter(known, batch, task)) for batch in batches if known],
        distributions=[(batch, _distributions(shown, batch)) for batch in batches],
        reliability=[
            (artifact["info"]["name"], artifact["accuracy"]["ece"], _reliability(i, artifact))
            for i, artifact in shown
            if "reliability" in artifact["accuracy"]
        ],
        pictures=_pictures(report),
        properties=describe_properties(
            [Shown(i, _label(one), one["info"]["name"], one.get("properties", {})) for i, one in shown]
        ),
        quantized=[describe_bars(quantized) for quantized in report["quantized"]],
        proofs=[
            (a["info"]["name"], a["proof"], precision_counts(a["proof"]), (LAYER_COLUMNS, layer_rows(a["proof"])))
            for a in report["artifacts"]
            if a["proof"] is not None
        ],
    )


def page(template: str, **values: Any) -> str:
    """Fill a template of this folder's `templates`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("illama_deploy.report.renderers"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names come from files: nothing in them turns the direction of what stands behind, or hides.
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    return environment.get_template(template).render(**values)


def _legend(report: dict[str, Any]) -> list[tuple[int, str, str, bool]]:
    return [
        (i % charts.COLOURS, artifact["info"]["name"], _label(artifact), artifact["role"] == "baseline")
        for i, artifact in enumerate(report["artifacts"])
    ]


def _bar(gate: dict[str, Any]) -> Markup:
    figures = (gate["low"], gate["value"], gate["high"], gate["limit"])
    return Markup(charts.interval_bar(*figures, gate["verdict"], at_least=GATES[gate["name"]].at_least))


def _at(artifact: dict[str, Any], batch: int) -> dict[str, Any] | None:
    return next((latency for latency in artifact["latency"] if latency["batch"] == batch), None)


def _label(artifact: dict[str, Any]) -> str:
    return f"{artifact['info']['format']} on {artifact['target']}"


def _pictures(report: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each image's name, with what is drawn over it: a caption and a data URI each."""
    found: dict[str, list[tuple[str, str]]] = {}
    for picture in report.get("pictures", ()):
        found.setdefault(picture["image"], []).append((picture["shows"], picture["uri"]))
    return list(found.items())


def _scatter(shown: list[tuple[int, dict[str, Any]]], batch: int, task: Task) -> Markup:
    points = []
    for colour, artifact in shown:
        if (latency := _at(artifact, batch)) is not None:
            figure, comparison = artifact["accuracy"][task.figure], artifact["comparison"]
            low = high = figure
            if colour and comparison is not None:  # the first artifact is what the others are compared with
                least, most = comparison["intervals"][task.drop]
                low, high = figure + comparison[task.drop] - most, figure + comparison[task.drop] - least
            baseline = artifact["role"] == "baseline"
            points.append(charts.Point(_label(artifact), colour, latency["p50_ms"], figure, low, high, baseline))
    return Markup(charts.scatter(points, f"p50 in ms, batch {batch}", f"{task.title} %"))


def _distributions(shown: list[tuple[int, dict[str, Any]]], batch: int) -> Markup:
    rows = [
        (_label(artifact), colour, latency["quantiles_ms"])
        for colour, artifact in shown
        if (latency := _at(artifact, batch)) is not None
    ]
    return Markup(charts.dot_plot(rows, f"ms, batch {batch}"))


def _reliability(colour: int, artifact: dict[str, Any]) -> Markup:
    accuracy = artifact["accuracy"]
    return Markup(charts.reliability(accuracy["reliability"], colour, artifact["info"]["name"], accuracy.get("edges")))


def describe_bars(quantized: dict[str, Any]) -> dict[str, Any]:
    """Sites with the lengths of their bars: share of the noise, and signal-to-noise ratio of the output."""
    most = max((site["noise_share"] or 0.0 for site in quantized["sites"]), default=0.0) or 1.0
    best = max((site["sqnr_db"] for site in quantized["sites"]), default=1.0)
    bars = [
        (site, 100 * (site["noise_share"] or 0.0) / most, 100 * max(site["sqnr_db"], 0.0) / max(best, 1.0))
        for site in quantized["sites"]
    ]
    measured = quantized["not_measured"] is None
    ordered = sorted(bars, key=lambda bar: bar[0]["alone_db"] if measured else bar[0]["sqnr_db"])
    worst = ordered[0][0]["name"] if measured and ordered else None
    table = (SITE_COLUMNS, site_rows(quantized))
    return {**quantized, "bars": bars, "most": ordered[:MOST_SITES], "worst": worst, "table": table}
