"""`report.md`, verdict first; also for a CI job's summary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...console import one_line
from ...properties import property_tables
from ..rows import (
    GATE_COLUMNS,
    SITE_COLUMNS,
    TIMING_COLUMNS,
    accuracy_columns,
    accuracy_rows,
    artifact_columns,
    artifact_rows,
    class_columns,
    class_rows,
    gate_rows,
    precision_counts,
    site_rows,
    timing_rows,
)

__all__ = ["MARKS", "code", "escape", "render_markdown", "render_short", "table"]

MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
#: Sites that are listed: those that cost most.
WORST_SITES = 10
#: What is markup inside a line and in tables (an underscore inside a word is none), and at the start of a line.
MARKUP = re.compile(r"[\\`*\[\]~$|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#+=-](?=[\s#+=-]|$)|(?<=^\d)[.)](?=\s|$)")
#: What becomes a link by itself.
LINK = re.compile(r"://|\bwww\.", re.IGNORECASE)
#: A mention, or a reference to an issue.
REFERENCE = re.compile(r"[@#](?=\w)|\bGH-(?=\d)", re.IGNORECASE)


def render_markdown(report: dict[str, Any]) -> str:
    """Render `report.json`'s content; details are folded."""
    data, settings, classes = report["data"], report["settings"], class_rows(report)
    skipped = f", {len(data['skipped'])} broken images left out" if data["skipped"] else ""
    sections = [
        render_short(report),
        table(artifact_columns(report), artifact_rows(report)),
        f"Accuracy on {data['images']} images of {code(str(data['spec']))}"
        + (f" (split {code(data['split'])})" if data["split"] else "")
        + f"{skipped}; the drop's interval is paired (same images).\n"
        + f"Latency on {settings['threads']} thread(s), artifacts taking turns in one process; ratios are medians of "
        + "paired rounds, to the fastest baseline of the same target. Each bound holds with "
        + f"{100 * settings['confidence']:g} % confidence; what straddles a limit is inconclusive.",
        _folded("Accuracy and calibration", table(accuracy_columns(report), accuracy_rows(report))),
        *([_folded("Class by class", table(class_columns(report), classes))] if classes else []),
        _folded(
            "How steady the timings were", table(TIMING_COLUMNS, timing_rows(report)) + "\n\n" + _conditions(report)
        ),
    ]
    named = [(artifact["info"]["name"], artifact.get("properties", {})) for artifact in report["artifacts"]]
    sections += [_folded(title, table(columns, rows)) for title, columns, _, rows in property_tables(named)]
    for quantized in report["quantized"]:
        rows = sorted(zip(quantized["sites"], site_rows(quantized), strict=True), key=lambda pair: _cost(pair[0]))
        title = f"The {min(WORST_SITES, len(rows))} most sensitive of {len(rows)} sites, {quantized['format']}"
        sections.append(_folded(title, table(SITE_COLUMNS, [row for _, row in rows[:WORST_SITES]])))
    for artifact in report["artifacts"]:
        if (proof := artifact["proof"]) is not None:
            counts = ", ".join(
                f"{count} in {escape(precision)}" for precision, count in precision_counts(proof).items()
            )
            title = f"Precision that the layers of {artifact['info']['name']} really run in"
            sections.append(_folded(title, f"{escape(proof['summary'])}.\n\nLayers: {counts}."))
    sections.append(_folded("Environment, hashes and how to reproduce", _origin(report)))
    return "\n\n".join(sections) + "\n"


def render_short(report: dict[str, Any]) -> str:
    """The verdict, the gates and what they mean."""
    gates = [(*row[:-1], f"{MARKS[row[-1]]} {row[-1]}") for row in gate_rows(report)]
    notes = "\n".join(f"- {escape(note)}" for note in report["notes"])
    head = f"# {MARKS[report['verdict']]} {report['verdict'].upper()}\n\n{table(GATE_COLUMNS, gates)}"
    return f"{head}\n\n{notes}" if notes else head


def _cost(site: dict[str, Any]) -> float:
    """Where sensitivity was not measured, the error that has come together at a site's output stands for it."""
    return site["sqnr_db"] if site["alone_db"] is None else site["alone_db"]


def _conditions(report: dict[str, Any]) -> str:
    mhz, load = report["conditions"]["cpu_mhz"], report["conditions"]["load_before"]
    clock = "the CPU's clock is not to be seen here" if mhz is None else f"CPU clock {mhz[0]:.0f} to {mhz[1]:.0f} MHz"
    return f"{clock}; load before {'unknown' if load is None else f'{load:.2f} per core'}."


def _origin(report: dict[str, Any]) -> str:
    environment, stored = report["environment"], report["stored"]
    lines = [f"- command: {code(report['command'])}"] if report["command"] else []
    lines.append(f"- made: {escape(report['created'])}, content sha256 `{report['content_sha256']}`")
    if stored is not None:
        then = f"{escape(stored['created'])}, sha256 `{stored['content_sha256']}`"
        lines.append(f"- held against: {code(stored['path'])} of {then}")
    lines += [
        f"- {escape(key)}: {escape(str(value))}" for key, value in environment.items() if not isinstance(value, dict)
    ]
    lines += [f"- {escape(name)} {escape(number)}" for name, number in environment["versions"].items()]
    for artifact in report["artifacts"]:
        info = artifact["info"]
        runs_on = f"{escape(info['backend'])} ({escape(info['provider'])})"
        lines.append(f"- {code(info['name'])}: sha256 {code(info['sha256'] or '–')} on {runs_on}")
    return "\n".join(lines)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_gap(_entities(one_line(title)))}</summary>\n\n{body}\n\n</details>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are text, whatever stands in them."""
    lines = [_row(columns), "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


def escape(text: str) -> str:
    """Text that stays text in Markdown, GitHub's too: no markup, link, mention, reference or border of a cell.

    Names and reasons in a report come from files and paths, and a report is posted where people trust it.
    """
    marked = MARKUP.sub(r"\\\g<0>", _entities(one_line(text).strip()))
    return _gap(LINK.sub(lambda found: found[0].replace("/", "\\/").replace(".", "\\."), marked))


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _gap(text: str) -> str:
    """Mentions and references are looked for in the finished page, where no backslash helps: a gap of no width does."""
    return REFERENCE.sub("\\g<0>&#8203;", text)


def code(text: str) -> str:
    """The same as code, with a fence that the text has not."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    gap = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{gap}{text}{gap}{fence}"
