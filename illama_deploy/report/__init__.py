"""Verdicts and reports. `report.json` is the only source; each other form is a face, rendered from it."""

from .document import SCHEMA, Report, load_schema, read_report, seal
from .faces import FACES, Face, render_html, render_markdown
from .gates import GATES, Gate, Verdict, overall
from .history import render_history
from .summary import append_summary
from .terminal import print_report
from .words import pay_notes, steadiness_notes

__all__ = [
    "FACES",
    "GATES",
    "SCHEMA",
    "Face",
    "Gate",
    "Report",
    "Verdict",
    "append_summary",
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
