"""Charts as inline SVG: no script, no external resource, colours from the page's variables (`--c0` … `--c7`).

Each is drawn about 360 units wide, so that its text stays readable on a phone; a page sets them side by side.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..console import one_line

__all__ = [
    "COLOURS",
    "Bias",
    "Line",
    "Point",
    "Series",
    "dot_plot",
    "interval_bar",
    "lines",
    "reliability",
    "scatter",
    "shape_bias",
    "trend",
]

COLOURS = 8
WIDTH = 360.0


@dataclass(frozen=True)
class Point:
    """An artifact at one batch size.

    Attributes:
        x, y: latency in ms, top-1 in percent.
        low, high: interval of y.
        baseline: drawn hollow.
    """

    label: str
    colour: int
    x: float
    y: float
    low: float
    high: float
    baseline: bool


@dataclass(frozen=True)
class Series:
    """A line through points (label of the point, value, low, high) in order of time."""

    label: str
    colour: int
    points: Sequence[tuple[str, float, float, float]]


@dataclass(frozen=True)
class Line:
    """A line through points (x, y), in order of x; dashed to tell apart lines of one colour."""

    label: str
    colour: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Bias:
    """Shape ratios of an artifact: of all stimuli, and by category [value, low, high]; None where none is decided."""

    label: str
    colour: int
    overall: float | None
    categories: dict[str, Sequence[float] | None]


class _Scale:
    """Values to units along an axis, with round ticks."""

    def __init__(
        self, values: Iterable[float], start: float, end: float, *, zero: bool = False, pad: float = 0.08
    ) -> None:
        found = list(values)
        low, high = min(found), max(found)
        spread = (high - low) or abs(high) * 0.1 or 1.0
        self.low = 0.0 if zero and low >= 0 else low - pad * spread
        self.high = high + pad * spread
        if not self.high - self.low > 1e-9 * max(abs(self.low), abs(self.high)):  # all of them the same
            widest = 1e-3 * max(abs(self.low), abs(self.high), 1.0)
            self.low, self.high = self.low - widest, self.high + widest
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 4) -> list[float]:
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / raw)))
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Accuracy against latency, with the Pareto front: nothing lies above and to the left of it."""
    height, left, bottom = 260.0, 46.0, 222.0
    x = _Scale((p.x for p in points), left, WIDTH - 14, zero=True)
    y = _Scale((v for p in points for v in (p.low, p.high)), bottom, 14)
    parts = [_axes(x, y, left, bottom, x_title, y_title)]
    front = pareto(points)
    if len(front) > 1:
        path = f"M{x(front[0].x):.1f},{y(front[0].y):.1f}" + "".join(f"H{x(p.x):.1f}V{y(p.y):.1f}" for p in front[1:])
        parts.append(f'<path class="front" d="{path}"/>')
    for p in points:
        cx, cy = x(p.x), y(p.y)
        parts.append(
            f'<g class="c{p.colour % COLOURS}">'
            f"<title>{escape(p.label)}: {p.y:.2f} ({p.low:.2f}–{p.high:.2f}) %, {p.x:.3f} ms</title>"
            f'<line class="whisker" x1="{cx:.1f}" x2="{cx:.1f}" y1="{y(p.low):.1f}" y2="{y(p.high):.1f}"/>'
            f'<circle class="{"hollow" if p.baseline else "solid"}" cx="{cx:.1f}" cy="{cy:.1f}" r="5"/></g>'
        )
    return _svg(height, f"{y_title} against {x_title}", parts)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both latency and accuracy, fastest first."""
    front: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or p.y > front[-1].y:
            front.append(p)
    return front


def dot_plot(rows: Sequence[tuple[str, int, Sequence[float]]], x_title: str) -> str:
    """Distributions as quantile dots: each dot stands for one fortieth of the rounds.

    Args:
        rows: label, colour and quantiles (0 to 100 % in equal steps) of each.
    """
    pitch = 58.0
    height = pitch * len(rows) + 40
    bottom = height - 36
    # The slowest few rounds would press everything else together; they are cut off and said.
    x = _Scale((v for _, _, q in rows for v in (q[0], q[-2])), 10, WIDTH - 12, pad=0.03)
    parts = [_axes(x, None, 10, bottom, x_title, "")]
    for number, (label, colour, quantiles) in enumerate(rows):
        base = pitch * (number + 1) - 8
        dots = _stack([x(min(v, x.high)) for v in quantiles[:-1]], 3.1, base, 5)
        median = x(quantiles[len(quantiles) // 2])
        parts.append(
            f'<g class="c{colour % COLOURS}"><title>{escape(label)}: median {quantiles[len(quantiles) // 2]:.3f} ms, '
            f"slowest {quantiles[-1]:.3f} ms</title>"
            f'<text class="label" x="10" y="{base - 40:.1f}">{escape(_shorten(label, 56))}</text>{dots}'
            f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{base - 34:.1f}" y2="{base + 4:.1f}"/></g>'
        )
    return _svg(height, f"Distributions of {x_title}", parts)


def _stack(positions: Sequence[float], radius: float, base: float, most: int) -> str:
    """Dots that would cover each other go on top of each other, at most so many high."""
    levels: list[float] = []
    parts = []
    for at in positions:
        level = next((i for i, end in enumerate(levels) if at - end >= 2 * radius), len(levels))
        if level >= most:
            level = min(range(len(levels)), key=lambda i: levels[i])
        levels[level : level + 1] = [at]
        parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{base - radius - 2 * radius * level:.1f}" r="{radius}"/>')
    return "".join(parts)


def reliability(
    bins: Sequence[Sequence[float | None]], colour: int, label: str, edges: Sequence[float] | None = None
) -> str:
    """Accuracy against confidence; the shaded strip along the bottom says how many images each bin has.

    Args:
        edges: of the bins; equal steps from 0 to 1 where not given.
    """
    height, left, bottom = 230.0, 40.0, 190.0
    x, y = _Scale((0.0, 1.0), left, WIDTH - 14, pad=0), _Scale((0.0, 1.0), bottom, 10, pad=0)
    most = max(int(b[0] or 0) for b in bins) or 1
    edges = edges or [i / len(bins) for i in range(len(bins) + 1)]
    parts = [
        _axes(x, y, left, bottom, "confidence", "accuracy"),
        f'<line class="ideal" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>',
    ]
    shape = []
    for (count, right, confidence), low, high in zip(bins, edges, edges[1:], strict=False):
        if not count or confidence is None:
            continue
        share = float(right or 0) / count
        tall = 26 * count / most
        parts.append(
            f'<rect class="count" x="{x(low) + 1:.1f}" y="{bottom - tall:.1f}" '
            f'width="{max(x(high) - x(low) - 2, 0.5):.1f}" height="{tall:.1f}"/>'
        )
        shape.append(
            (
                x(confidence),
                y(share),
                f"{count:g} images: confidence {confidence:.3f}, accuracy {share:.3f}",
                2 + 3 * math.sqrt(count / most),
            )
        )
    kind = f"c{colour % COLOURS}"
    if shape:
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b, *_ in shape)
        parts.append(f'<polyline class="curve {kind}" points="{line}"/>')
    for a, b, tip, r in shape:
        circle = f'<circle class="solid" cx="{a:.1f}" cy="{b:.1f}" r="{r:.1f}"/>'
        parts.append(f'<g class="{kind}"><title>{tip}</title>{circle}</g>')
    return _svg(height, f"Reliability of {label}", parts)


def lines(series: Sequence[Line], x_title: str, y_title: str, *, marks: bool = True) -> str:
    """Values along an axis, such as layers or severities; the lines are told apart by a legend beside the chart."""
    height, left, bottom = 240.0, 46.0, 200.0
    x = _Scale((a for one in series for a, _ in one.points), left + 8, WIDTH - 18, pad=0)
    y = _Scale((b for one in series for _, b in one.points), bottom, 14)
    parts = [_axes(x, y, left, bottom, x_title, y_title)]
    for one in series:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one.points)
        dashed = " dashed" if one.dashed else ""
        parts.append(f'<g class="c{one.colour % COLOURS}"><title>{escape(one.label)}</title>')
        parts.append(f'<polyline class="curve{dashed}" points="{path}"/>')
        for a, b in one.points if marks else ():
            tip = f"{escape(one.label)}: {b:.4g} at {a:g}"
            parts.append(f'<g><title>{tip}</title><circle class="solid" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5"/></g>')
        parts.append("</g>")
    return _svg(height, f"{y_title} against {x_title}", parts)


def shape_bias(series: Sequence[Bias]) -> str:
    """Decisions by shape (left) and by texture (right) for each category of shape; upright lines: of all stimuli."""
    names = list(dict.fromkeys(name for one in series for name in one.categories))
    pitch, left, top = 15.0 + 5.0 * len(series), 76.0, 8.0
    bottom = top + pitch * len(names)
    x = _Scale((0.0, 1.0), WIDTH - 14, left, pad=0)
    parts = [_axes(x, None, left, bottom, "share of decisions by shape; the rest by texture", "")]
    for one in series:
        parts.append(f'<g class="c{one.colour % COLOURS}">')
        if one.overall is not None:
            at = f'x1="{x(one.overall):.1f}" x2="{x(one.overall):.1f}"'
            tip = f"<title>{escape(one.label)}: {one.overall:.3f} of all</title>"
            parts.append(f'<g>{tip}<line class="median" {at} y1="{top:g}" y2="{bottom:g}"/></g>')
        for name, ratio in one.categories.items():
            if ratio is None:
                continue
            value, low, high = ratio
            y = top + pitch * (names.index(name) + (series.index(one) + 1) / (len(series) + 1))
            parts.append(
                f"<g><title>{escape(one.label)}, {escape(name)}: {value:.3f} ({low:.3f}–{high:.3f})</title>"
                f'<line class="whisker" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle class="solid" cx="{x(value):.1f}" cy="{y:.1f}" r="3.5"/></g>'
            )
        parts.append("</g>")
    for number, name in enumerate(names):
        y = top + pitch * (number + 0.5) + 3.5
        parts.append(f'<text class="tick" x="{left - 6:g}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
    return _svg(bottom + 40, "Decisions by shape and by texture", parts)


def interval_bar(low: float, value: float, high: float, limit: float, verdict: str, *, at_least: bool = False) -> str:
    """An interval beside its limit, without words; what is allowed lies below the limit, or above it."""
    width, height, middle = 180.0, 30.0, 15.0
    x = _Scale((low, high, limit), 6, width - 6, pad=0.18)
    return (
        f'<svg class="interval {verdict}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="interval {low:.4g} to {high:.4g}, limit {limit:g}">'
        f'<rect class="allowed" x="{x(limit) if at_least else 0:.1f}" y="4" '
        f'width="{width - x(limit) if at_least else x(limit):.1f}" height="{height - 8:g}" rx="3"/>'
        f'<line class="limit" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="2" y2="{height - 2:g}"/>'
        f'<line class="range" x1="{x(low):.1f}" x2="{max(x(high), x(low) + 1):.1f}" y1="{middle:g}" y2="{middle:g}"/>'
        f'<circle class="value" cx="{x(value):.1f}" cy="{middle:g}" r="4.5"/></svg>'
    )


def trend(series: Sequence[Series], y_title: str, limit: float | None = None) -> str:
    """Values over time, oldest first, each with its interval."""
    height, left, bottom = 240.0, 46.0, 200.0
    moments = sorted({point[0] for one in series for point in one.points})
    values = [v for one in series for point in one.points for v in point[1:]] + ([] if limit is None else [limit])
    x, y = _Scale((0, max(len(moments) - 1, 1)), left + 8, WIDTH - 18, pad=0), _Scale(values, bottom, 14)
    parts = [_axes(None, y, left, bottom, "", y_title)]
    for position in sorted({0, len(moments) - 1}):
        anchor = "start" if position == 0 else "end"
        parts.append(
            f'<text class="tick" x="{x(position) - (8 if position == 0 else -8):.1f}" y="{bottom + 16:.1f}" '
            f'text-anchor="{anchor}">{escape(moments[position][:10])}</text>'
        )
    if limit is not None:
        parts.append(f'<line class="limit" x1="{left:g}" x2="{WIDTH - 10:g}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
    for one in series:
        at = [(x(moments.index(moment)), moment, value, low, high) for moment, value, low, high in one.points]
        line = " ".join(f"{a:.1f},{y(v):.1f}" for a, _, v, _, _ in at)
        parts.append(f'<g class="c{one.colour % COLOURS}"><polyline class="curve" points="{line}"/>')
        for a, moment, value, low, high in at:
            parts.append(
                f"<g><title>{escape(one.label)}, {escape(moment)}: {value:.3f} ({low:.3f}–{high:.3f})</title>"
                f'<line class="whisker" x1="{a:.1f}" x2="{a:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
                f'<circle class="solid" cx="{a:.1f}" cy="{y(value):.1f}" r="3.5"/></g>'
            )
        parts.append("</g>")
    return _svg(height, f"{y_title} over time", parts)


def escape(text: str) -> str:
    """A name as text of an SVG, or of one of its attributes."""
    return html.escape(one_line(text))


def _axes(x: _Scale | None, y: _Scale | None, left: float, bottom: float, x_title: str, y_title: str) -> str:
    parts = [f'<line class="axis" x1="{left:g}" x2="{WIDTH - 10:g}" y1="{bottom:g}" y2="{bottom:g}"/>']
    for tick in x.ticks() if x is not None else ():
        assert x is not None
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="8" y2="{bottom:g}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks() if y is not None else ():
        assert y is not None
        parts.append(f'<line class="grid" x1="{left:g}" x2="{WIDTH - 10:g}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6:g}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    if x_title:
        parts.append(
            f'<text class="title" x="{WIDTH - 10:g}" y="{bottom + 31:.1f}" text-anchor="end">{escape(x_title)}</text>'
        )
    if y_title:
        parts.append(f'<text class="title" x="{left + 4:g}" y="10">{escape(y_title)}</text>')
    return "".join(parts)


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _shorten(text: str, most: int) -> str:
    """The end of a path says more than its start."""
    return text if len(text) <= most else "…" + text[1 - most :]
