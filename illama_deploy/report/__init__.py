"""Verdicts and reports. `report.json` is the only source; each other form is rendered from it, one file each."""

from .document import SCHEMA, Report
from .gates import Gate, Verdict, overall
from .markdown import render_markdown
from .terminal import print_report

__all__ = ["SCHEMA", "Gate", "Report", "Verdict", "overall", "print_report", "render_markdown"]
