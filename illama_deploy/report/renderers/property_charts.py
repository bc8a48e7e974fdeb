"""What properties look like on a page: charts and tables of any number of artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ...properties import PROPERTIES, was_measured
from .. import charts

__all__ = ["Shown", "describe_properties", "reliability_charts"]


class Shown(NamedTuple):
    """An artifact on a page."""

    colour: int
    label: str
    name: str
    properties: dict[str, Any]


def describe_properties(artifacts: Sequence[Shown]) -> dict[str, Any]:
    """Key of each property to `title`, `remark`, `table`, and `charts` [(title, chart)], or None where not measured;
    `others`: those without a section of their own."""
    named = [(one.name, one.properties) for one in artifacts]
    parts: dict[str, Any] = {}
    for one in PROPERTIES.values():
        draw, rows = DRAWN.get(one.key), one.rows(named)
        part = {"title": one.title, "remark": one.remark, "table": (one.columns, rows), "left": one.left}
        parts[one.key] = {**part, "charts": draw(artifacts) if draw else []} if rows else None
    return {**parts, "others": [part for key, part in parts.items() if part and key not in DRAWN]}


def reliability_charts(artifact: Shown) -> list[tuple[str, float, Markup]]:
    """Title, calibration error and diagram of an artifact as it is, and with the temperature that was fitted."""
    found = artifact.properties["calibration"]
    scaled = found["scaled"]
    each = [("as it is", found)]
    each += [] if scaled is None else [(f"at temperature {scaled['temperature']:.3f}", scaled)]
    return [
        (
            title,
            figures["ece"][0],
            Markup(charts.reliability(figures["reliability"], artifact.colour, artifact.label, figures["edges"])),
        )
        for title, figures in each
    ]


def _found(artifacts: Sequence[Shown], name: str) -> list[tuple[Shown, dict[str, Any]]]:
    return [(one, one.properties[name]) for one in artifacts if was_measured(one.properties, name)]


def _shape_charts(artifacts: Sequence[Shown]) -> list[tuple[str, Markup]]:
    series = [
        charts.Bias(
            one.label,
            one.colour,
            None if found["ratio"] is None else found["ratio"][0],
            {name: counts["ratio"] for name, counts in found["categories"].items()},
        )
        for one, found in _found(artifacts, "shape_bias")
    ]
    return [("By shape or by texture", Markup(charts.shape_bias(series)))] if series else []


def _rank_charts(artifacts: Sequence[Shown]) -> list[tuple[str, Markup]]:
    by_layer: list[charts.Line] = []
    first: list[charts.Line] = []
    last: list[charts.Line] = []
    share = 0.0
    for one, found in _found(artifacts, "attention_rank"):
        for number, by_mask in enumerate(found["masks"]):
            label, tokens, share = f"{one.label}, {by_mask['mask']}", by_mask["tokens"], by_mask["share"]
            means = [100 * sum(ranks) / len(ranks) / tokens for ranks in by_mask["rank"]]
            by_layer.append(charts.Line(label, one.colour, list(enumerate(means, 1)), number > 0))
            for lines, curves in ((first, by_mask["curve"][0]), (last, by_mask["curve"][-1])):
                means = [sum(points) / len(points) for points in zip(*curves, strict=True)]
                steps = [(100 * i / (len(means) - 1), 100 * mean) for i, mean in enumerate(means)]
                lines.append(charts.Line(label, one.colour, steps, number > 0))
    if not by_layer:
        return []
    axes = ("% of singular values", "% of their sum")
    return [
        (f"Singular values that make up {100 * share:g} %", Markup(charts.lines(by_layer, "layer", "% of them"))),
        ("First layer", Markup(charts.lines(first, *axes, marks=False))),
        ("Last layer", Markup(charts.lines(last, *axes, marks=False))),
    ]


def _corruption_charts(artifacts: Sequence[Shown]) -> list[tuple[str, Markup]]:
    series = []
    for one, found in _found(artifacts, "corruptions"):
        means = [sum(top1) / len(top1) for top1 in zip(*found["top1"].values(), strict=True)]
        points = [(0.0, found["clean"]), *zip(map(float, found["severities"]), means, strict=True)]
        series.append(charts.Line(one.label, one.colour, points))
    return [("Mean of the corruptions", Markup(charts.lines(series, "severity", "top-1 %")))] if series else []


#: Properties that have a section of their own, by key, with what draws its charts.
DRAWN: dict[str, Callable[[Sequence[Shown]], list[tuple[str, Markup]]] | None] = {
    "calibration": None,  # in the section of accuracy
    "shape_bias": _shape_charts,
    "attention_rank": _rank_charts,
    "corruptions": _corruption_charts,
}
