"""The report's table as text, shared by every face that shows one."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ARTIFACT_COLUMNS",
    "GATE_COLUMNS",
    "LATENCY_COLUMNS",
    "artifact_rows",
    "gate_rows",
    "latency_rows",
]

ARTIFACT_COLUMNS = (
    "artefact",
    "format",
    "size",
    "top-1 %",
    "agreement %",
    "batch",
    "p50 ms",
    "images/s",
    "ratio",
)
#: Stands where a figure would: the artefact cannot run on this machine.
NOT_MEASURED = "not measured"
GATE_COLUMNS = ("gate", "artefact", "measured", "interval", "limit", "verdict")


LATENCY_COLUMNS = (
    "artefact",
    "batch",
    "rounds",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "images/s",
    "ratio to the first",
)


def artifact_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per artefact and batch size, baseline first."""
    rows: list[tuple[str, ...]] = []
    for position, artifact in enumerate([report["baseline"], *report["candidates"]]):
        info, accuracy = artifact["info"], artifact["accuracy"]
        if "not_measured" in artifact:
            rows.append((info["name"], info["format"], _size(info["size_bytes"]), NOT_MEASURED, *(["–"] * 5)))
        for number, latency in enumerate(artifact["latency"]):
            head = (
                info["name"],
                info["format"],
                _size(info["size_bytes"]),
                f"{accuracy['top1']:.2f}",
                f"{artifact['comparison']['agreement']:.2f}" if position else "baseline",
            )
            rows.append(
                (
                    *(head if number == 0 else ("", "", "", "", "")),
                    str(latency["batch"]),
                    f"{latency['p50_ms']:.3f}",
                    f"{latency['images_per_s']:.0f}",
                    _ratio(latency) if position else "1",
                )
            )
    return rows


def latency_rows(benchmark: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per batch size and artefact, of what `bench` measured; one for an artefact that it could not."""
    artifacts = benchmark["artifacts"]
    rows: list[tuple[str, ...]] = [
        (artifact["info"]["name"], "–", "–", NOT_MEASURED, *(["–"] * 4))
        for artifact in artifacts
        if "not_measured" in artifact
    ]
    artifacts = [artifact for artifact in artifacts if "not_measured" not in artifact]
    for number in range(len(artifacts[0]["latency"]) if artifacts else 0):
        for artifact in artifacts:
            latency = artifact["latency"][number]
            percentiles = (latency[f"{name}_ms"] for name in ("p50", "p90", "p99"))
            rows.append(
                (
                    artifact["info"]["name"],
                    str(latency["batch"]),
                    str(latency["rounds"]),
                    *("–" if ms is None else f"{ms:.3f}" for ms in percentiles),
                    f"{latency['images_per_s']:.0f}",
                    "1" if artifact is benchmark["artifacts"][0] else _ratio(latency),
                )
            )
    return rows


def gate_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per gate."""
    rows: list[tuple[str, ...]] = []
    for gate in report["gates"]:
        drop = gate["name"] == "accuracy_drop"
        measured = "not_measured" not in gate
        unit, digits = (" points", 2) if drop else ("×", 3)
        name = ("top-1 drop" if drop else "latency ratio") + (f", {gate['detail']}" if gate["detail"] else "")
        rows.append(
            (
                name,
                gate["artifact"],
                f"{gate['value']:.{digits}f}{unit}" if measured else f"{NOT_MEASURED}: {gate['not_measured']}",
                f"{gate['low']:.{digits}f} to {gate['high']:.{digits}f}" if measured else "–",
                f"≤ {gate['limit']:g}{unit}",
                gate["verdict"],
            )
        )
    return rows


def _ratio(latency: dict[str, Any]) -> str:
    if latency["ratio"] is None:
        return "–"
    return f"{latency['ratio']:.3f} ({latency['ratio_low']:.3f}–{latency['ratio_high']:.3f})"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
