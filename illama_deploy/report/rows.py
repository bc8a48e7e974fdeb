"""The report's tables as text, shared by all renderers: what they show is the same to the last digit."""

from __future__ import annotations

from typing import Any

from ..tasks import task_of
from .gates import GATES

__all__ = [
    "GATE_COLUMNS",
    "LATENCY_COLUMNS",
    "LAYER_COLUMNS",
    "SITE_COLUMNS",
    "TIMING_COLUMNS",
    "accuracy_columns",
    "accuracy_rows",
    "artifact_columns",
    "artifact_rows",
    "class_columns",
    "class_rows",
    "gate_rows",
    "latency_rows",
    "layer_rows",
    "precision_counts",
    "site_rows",
    "timing_rows",
]

#: Stands where a figure would: the artifact cannot run on this machine.
NOT_MEASURED = "not measured"
#: The same for the times of one that only simulates.
NOT_TIMED = "not timed"
GATE_COLUMNS = ("gate", "artifact", "measured", "interval", "limit", "verdict")
TIMING_COLUMNS = ("artifact", "batch", "rounds", "p50 ms", "p90 ms", "p99 ms", "CV %", "outliers", "drift")
SITE_COLUMNS = (
    "site",
    "format",
    "clipped at, of the largest seen",
    "clipped %",
    "SQNR dB",
    "alone, dB",
    "share of noise %",
    "KB",
)
LAYER_COLUMNS = ("layer", "kernel", "precision")
LATENCY_COLUMNS = (
    "artifact",
    "batch",
    "rounds",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "images/s",
    "ratio to the first",
)


def gate_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per gate."""
    rows: list[tuple[str, ...]] = []
    for gate in report["gates"]:
        kind = GATES[gate["name"]]
        measured = "not_measured" not in gate
        rows.append(
            (
                kind.title + (f", {gate['detail']}" if gate["detail"] else ""),
                gate["artifact"],
                f"{gate['value']:.{kind.digits}f}{kind.unit}"
                if measured
                else f"{NOT_MEASURED}: {gate['not_measured']}",
                f"{gate['low']:.{kind.digits}f} to {gate['high']:.{kind.digits}f}" if measured else "–",
                kind.limit(gate["limit"]),
                gate["verdict"],
            )
        )
    return rows


def artifact_columns(report: dict[str, Any]) -> tuple[str, ...]:
    """Of `artifact_rows`."""
    accuracy = (f"{task_of(report).title} %", "drop", "agreement %")
    return ("artifact", "target", "format", "size", *accuracy, "batch", "p50 ms", "images/s", "ratio")


def artifact_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per artifact and batch size, baselines first."""
    rows: list[tuple[str, ...]] = []
    task = task_of(report)
    for position, artifact in enumerate(report["artifacts"]):
        info, accuracy, comparison = artifact["info"], artifact["accuracy"], artifact["comparison"]
        size = f"{info['size_bytes'] / 1e6:.2f} MB" if info["size_bytes"] else "–"
        head: tuple[str, ...] = (info["name"], artifact["target"], info["format"], size)
        if accuracy is None:
            rows.append((*head, NOT_MEASURED, *(["–"] * 6)))
            continue
        head += ("–" if accuracy[task.figure] is None else f"{accuracy[task.figure]:.2f}",)
        head += ("baseline", "–") if not position else _compared(comparison, task.drop)
        if not artifact["latency"]:
            rows.append((*head, "–", NOT_TIMED, "–", "–"))
        for number, latency in enumerate(artifact["latency"]):
            rows.append(
                (
                    *(head if number == 0 else [""] * len(head)),
                    str(latency["batch"]),
                    f"{latency['p50_ms']:.3f}",
                    f"{latency['images_per_s']:.0f}",
                    "1" if (artifact["role"], latency["ratio_to"]) == ("baseline", info["name"]) else _ratio(latency),
                )
            )
    return rows


def accuracy_columns(report: dict[str, Any]) -> tuple[str, ...]:
    """Of `accuracy_rows`."""
    task = task_of(report)
    return ("artifact", "images", *(title for _, title, _ in (*task.figures, *task.compared)))


def accuracy_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per artifact that ran, each figure with its interval."""
    rows: list[tuple[str, ...]] = []
    task = task_of(report)
    for position, artifact in enumerate(report["artifacts"]):
        accuracy, comparison = artifact["accuracy"], artifact["comparison"]
        if accuracy is None:
            continue
        compared = comparison is not None and position > 0
        rows.append(
            (
                artifact["info"]["name"],
                str(accuracy["images"]),
                *(_figure(accuracy, name, digits) for name, _, digits in task.figures),
                *(_figure(comparison, name, digits) if compared else "–" for name, _, digits in task.compared),
            )
        )
    return rows


def class_columns(report: dict[str, Any]) -> tuple[str, ...]:
    """Of `class_rows`: a column per artifact that ran."""
    return ("IoU %", *(f"{a['info']['format']} on {a['target']}" for a in report["artifacts"] if a["accuracy"]))


def class_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per class, where pixels were classified: the intersection over union of each artifact."""
    found = [a["accuracy"]["iou"] for a in report["artifacts"] if a["accuracy"] and "iou" in a["accuracy"]]
    names = list(found[0]) if found else []
    return [(name, *("–" if iou[name] is None else f"{iou[name]:.2f}" for iou in found)) for name in names]


def timing_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per artifact and batch size: how steady its times were."""
    return [
        (
            artifact["info"]["name"],
            str(latency["batch"]),
            str(latency["rounds"]),
            *(
                "–" if latency[f"{name}_ms"] is None else f"{latency[f'{name}_ms']:.3f}"
                for name in ("p50", "p90", "p99")
            ),
            f"{100 * latency['cv']:.1f}",
            str(latency["outliers"]),
            f"{latency['drift']:.3f}",
        )
        for artifact in report["artifacts"]
        for latency in artifact["latency"]
    ]


def site_rows(quantized: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per site of a quantized checkpoint."""
    return [
        (
            site["name"],
            site["format"],
            ", ".join(f"{t:.4g} of {m:.4g}" for t, m in zip(site["threshold"], site["largest"], strict=True)) or "–",
            "–" if site["clipped"] is None else f"{100 * site['clipped']:.3f}",
            f"{site['sqnr_db']:.1f}",
            "–" if site["alone_db"] is None else f"{site['alone_db']:.1f}",
            "–" if site["noise_share"] is None else f"{100 * site['noise_share']:.1f}",
            f"{site['bytes'] / 1e3:.1f}",
        )
        for site in quantized["sites"]
    ]


def layer_rows(proof: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per layer that a runtime executes."""
    return [(layer["name"], layer["kernel"], layer["precision"]) for layer in proof["layers"]]


def precision_counts(proof: dict[str, Any]) -> dict[str, int]:
    """Layers by the precision that they really run in, most frequent first."""
    counts: dict[str, int] = {}
    for layer in proof["layers"]:
        counts[layer["precision"]] = counts.get(layer["precision"], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def latency_rows(benchmark: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per batch size and artifact, of what `bench` measured; one for an artifact that it could not."""
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


def _compared(comparison: dict[str, Any] | None, drop: str) -> tuple[str, str]:
    if comparison is None:
        return "–", "–"
    return _figure(comparison, drop, 2, " to "), f"{comparison['agreement']:.2f}"


def _figure(figures: dict[str, Any], name: str, digits: int, between: str = "–") -> str:
    if figures.get(name) is None:  # a report of before it was measured, or it has no value
        return "–"
    if name not in figures["intervals"]:  # too few images
        return f"{figures[name]:.{digits}f}"
    low, high = figures["intervals"][name]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f}{between}{high:.{digits}f})"


def _ratio(latency: dict[str, Any]) -> str:
    if latency["ratio"] is None:
        return "–"
    return f"{latency['ratio']:.3f} ({latency['ratio_low']:.3f}–{latency['ratio_high']:.3f})"
