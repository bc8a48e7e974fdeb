"""`report.md`, verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rows import ARTIFACT_COLUMNS, GATE_COLUMNS, artifact_rows, gate_rows

__all__ = ["render_markdown"]

MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}


def render_markdown(report: dict[str, Any]) -> str:
    """Render `report.json`'s content."""
    data, settings, environment = report["data"], report["settings"], report["environment"]
    skipped = f", {len(data['skipped'])} broken images left out" if data["skipped"] else ""
    gates = [(*row[:-1], f"{MARKS[row[-1]]} {row[-1]}") for row in gate_rows(report)]
    lines = [
        f"# {MARKS[report['verdict']]} {report['verdict'].upper()}",
        "",
        _table(GATE_COLUMNS, gates),
        "",
        _table(ARTIFACT_COLUMNS, artifact_rows(report)),
        "",
        f"Accuracy on {data['images']} images of `{data['spec']}`"
        + (f" (split `{data['split']}`)" if data["split"] else "")
        + f"{skipped}; the drop's interval is paired (same images).",
        f"Latency on {settings['threads']} thread(s), artefacts taking turns in one process; ratios are medians of "
        "paired rounds. Each bound holds with "
        f"{100 * settings['confidence']:g} % confidence; what straddles a limit is inconclusive.",
        "",
        "<details><summary>Environment and hashes</summary>",
        "",
        *(f"- {key}: {value}" for key, value in environment.items() if not isinstance(value, dict)),
        *(f"- {name} {number}" for name, number in environment["versions"].items()),
        *(_identity(artifact["info"]) for artifact in (report["baseline"], *report["candidates"])),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def _identity(info: dict[str, Any]) -> str:
    return f"- `{info['name']}`: sha256 `{info['sha256']}` on {info['backend']} ({info['provider']})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "| " + " | ".join(columns) + " |"
    rule = "|" + " --- |" * len(columns)
    return "\n".join(
        [head, rule, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]
    )
