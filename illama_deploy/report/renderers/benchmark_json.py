"""`benchmark.json` for github-action-benchmark, tool `customSmallerIsBetter`."""

from __future__ import annotations

from typing import Any

from ...console import one_line
from ...hashing import canonical_json
from ...tasks import task_of

__all__ = ["render_benchmark_json"]


def render_benchmark_json(report: dict[str, Any]) -> str:
    """Render `report.json`'s content: drop, size, latency and ratio of each candidate; latency of baselines."""
    entries: list[dict[str, Any]] = []
    task = task_of(report)

    def add(name: str, unit: str, value: float, spread: list[float] | None = None, extra: str = "") -> None:
        entry: dict[str, Any] = {"name": one_line(name), "unit": unit, "value": value}
        if spread is not None:
            entry["range"] = f"{spread[0]:.6g} to {spread[1]:.6g}"
        entries.append(entry | ({"extra": one_line(extra)} if extra else {}))

    for artifact in report["artifacts"]:
        info, comparison = artifact["info"], artifact["comparison"]
        name, extra = info["name"], f"{info['format']} on {info['backend']} ({info['provider']})"
        candidate = artifact["role"] == "candidate"
        if candidate and comparison is not None and comparison[task.drop] is not None:
            spread = comparison["intervals"][task.drop]
            add(f"{name}: {task.title} drop", "points", comparison[task.drop], spread, extra)
        if candidate and info["size_bytes"]:
            add(f"{name}: size", "bytes", info["size_bytes"], extra=extra)
        for latency in artifact["latency"]:
            case = f"{name}: batch {latency['batch']}"
            add(f"{case}, p50", "ms", latency["p50_ms"], extra=extra)
            if candidate and latency["ratio"] is not None:
                spread = [latency["ratio_low"], latency["ratio_high"]]
                add(f"{case}, ratio to {latency['ratio_to']}", "×", latency["ratio"], spread, extra)
    return canonical_json(entries)
