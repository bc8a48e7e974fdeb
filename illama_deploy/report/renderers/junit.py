"""`junit.xml`: one case per gate, in the form that Ant's and Jenkins' schemas share.

An inconclusive gate is an `error`, since it is no pass; the exit code of `check` stays what decides.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from ...console import one_line
from ..rows import gate_rows

__all__ = ["render_junit"]


def render_junit(report: dict[str, Any]) -> str:
    """Render `report.json`'s content: a suite per candidate."""
    root = ET.Element("testsuites")
    rows = list(zip(report["gates"], gate_rows(report), strict=True))
    for number, name in enumerate(dict.fromkeys(gate["artifact"] for gate, _ in rows)):
        own = [(gate, row) for gate, row in rows if gate["artifact"] == name]
        verdicts = [gate["verdict"] for gate, _ in own]
        suite = ET.SubElement(
            root,
            "testsuite",
            id=str(number),
            name=one_line(name),
            package="illama-deploy",
            timestamp=report["created"].strip().removesuffix("Z"),
            hostname=report["environment"]["fingerprint"].strip(),
            tests=str(len(own)),
            failures=str(verdicts.count("fail")),
            errors=str(verdicts.count("inconclusive")),
            time="0",
        )
        properties = ET.SubElement(suite, "properties")
        for key in ("max_drop", "max_latency_ratio", "min_effect", "confidence"):
            ET.SubElement(properties, "property", name=key, value=str(report["settings"][key]))
        lines = []
        for gate, (name_of_gate, _, measured, interval, limit, verdict) in own:
            title = one_line(name_of_gate)
            case = ET.SubElement(suite, "testcase", classname=one_line(name), name=title, time="0")
            said = one_line(f"{measured} ({interval}), limit {limit}")
            if verdict != "pass":
                kind = "failure" if verdict == "fail" else "error"
                ET.SubElement(case, kind, type=gate["name"], message=f"{verdict}: {said}")
            lines.append(f"{title}: {said}: {verdict}")
        ET.SubElement(suite, "system-out").text = "\n".join(lines)
        ET.SubElement(suite, "system-err")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
