"""Faces of a report, each rendered from the content of `report.json`. One file each; a new one is a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .benchmark_json import render_benchmark_json
from .csv import render_csv
from .evaluation import render_properties
from .html import render_html
from .inspection import render_inspection
from .junit import render_junit
from .markdown import render_markdown, render_short

__all__ = [
    "RENDERERS",
    "Renderer",
    "render_html",
    "render_inspection",
    "render_markdown",
    "render_properties",
    "render_short",
]


@dataclass(frozen=True)
class Renderer:
    """One form of a report.

    Attributes:
        name: as `report --format` takes it.
        file: name of the file.
        render: content of `report.json` to text.
    """

    name: str
    file: str
    render: Callable[[dict[str, Any]], str]


RENDERERS: dict[str, Renderer] = {
    renderer.name: renderer
    for renderer in (
        Renderer("md", "report.md", render_markdown),
        Renderer("html", "report.html", render_html),
        Renderer("junit", "junit.xml", render_junit),
        Renderer("benchmark-json", "benchmark.json", render_benchmark_json),
        Renderer("csv", "report.csv", render_csv),
    )
}
