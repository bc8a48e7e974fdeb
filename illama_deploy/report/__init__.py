"""Verdicts and reports. `report.json` is the only source; each other form is rendered from it (`renderers/`)."""

from .document import SCHEMA, Report, load_schema, read_report, seal
from .gates import GATES, Gate, Verdict, overall
from .history import render_history
from .notes import chance_notes, finite_notes, is_at_chance, pay_notes, steadiness_notes
from .renderers import RENDERERS, Renderer, render_html, render_markdown
from .summary import append_summary
from .terminal import print_report

__all__ = [
    "GATES",
    "RENDERERS",
    "SCHEMA",
    "Gate",
    "Renderer",
    "Report",
    "Verdict",
    "append_summary",
    "chance_notes",
    "finite_notes",
    "is_at_chance",
    "load_schema",
    "overall",
    "pay_notes",
    "print_report",
    "read_report",
    "render_history",
    "render_html",
    "render_markdown",
    "seal",
    "steadiness_notes",
]
