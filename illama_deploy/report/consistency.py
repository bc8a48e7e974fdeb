"""What a schema cannot say of a report: that its parts fit each other, and that its figures can be drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..tasks import Task, task_of

__all__ = ["contradictions"]

#: Beyond this a figure is none: a century in milliseconds has 13 digits, an exabyte 18.
LARGEST = 1e18


def contradictions(report: dict[str, Any]) -> Iterator[str]:
    """Why a document that keeps to the schema is no report all the same, half a sentence each."""
    if (number := _beyond(report)) is not None:
        yield f"it holds the figure {number:.6g}" if isinstance(number, float) else "it holds a whole number too large"
        return
    task, classes = task_of(report), None
    for at, artifact in enumerate(report["artifacts"]):
        where = f"artifact {at + 1}"
        accuracy, comparison = artifact["accuracy"], artifact["comparison"]
        if (accuracy is None) != ("not_measured" in artifact) or (accuracy is None and artifact["latency"]):
            yield f"{where} was measured and was not"
        if comparison is not None:
            if not _is_whole(comparison, task.drop):
                yield f"{where} has no drop in {task.title}"
            if "agreement" not in comparison["intervals"]:
                yield f"{where} has no interval of its agreement"
        if accuracy is not None:
            yield from _of_accuracy(where, accuracy, task, report["data"]["images"])
            if "iou" in accuracy:
                classes = classes or list(accuracy["iou"])
                if list(accuracy["iou"]) != classes:
                    yield f"{where} has other classes than the first"
        for latency in artifact["latency"]:
            ratio = [latency[name] is None for name in ("ratio", "ratio_low", "ratio_high", "ratio_to")]
            if len(set(ratio)) > 1 or (not ratio[0] and not 0 < latency["ratio_low"] <= latency["ratio_high"]):
                yield f"{where} has a latency ratio without a baseline or an interval"
        yield from _of_properties(where, artifact.get("properties", {}))
    for quantized in report["quantized"]:
        if any(len(site["threshold"]) != len(site["largest"]) for site in quantized["sites"]):
            yield "a site has other thresholds than inputs"
        if quantized["not_measured"] is None and any(site["alone_db"] is None for site in quantized["sites"]):
            yield "the sensitivity of sites was measured and was not"


def _is_whole(figures: dict[str, Any], key: str) -> bool:
    """Whether a figure is there with its interval, or is said to be none (the schema says where it may)."""
    return key in figures and (figures[key] is None) != (key in figures["intervals"])


def _of_accuracy(where: str, accuracy: dict[str, Any], task: Task, images: int) -> Iterator[str]:
    if not _is_whole(accuracy, task.figure):
        yield f"{where} has no {task.figure}"
    if accuracy["images"] != images:
        yield f"{where} was measured on {accuracy['images']} images, all on {images}"
    yield from (f"{where} {fault}" for fault in task.faults(accuracy, images))


def _of_properties(where: str, properties: dict[str, Any]) -> Iterator[str]:
    for found in (properties.get("calibration", {}), properties.get("calibration", {}).get("scaled") or {}):
        if "edges" in found and len(found["edges"]) != len(found["reliability"]) + 1:
            yield f"{where} has other bins than edges"
    if "top1" in (corruptions := properties.get("corruptions", {})):
        lengths = {len(top1) for top1 in corruptions["top1"].values()}
        if lengths != {len(corruptions["severities"])}:
            yield f"{where} has other corruptions than severities"
    for mask in properties.get("attention_rank", {}).get("masks", ()):
        layers, curves = mask["rank"], mask["curve"]
        heads = {len(heads) for heads in (*layers, *curves)}
        points = {len(curve) for layer in curves for curve in layer}
        if len(layers) != len(curves) or len(heads) != 1 or len(points) != 1:
            yield f"{where} has attention ranks of other layers or heads than curves"


def _beyond(value: Any) -> int | float | None:
    """The first number that is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return None if abs(value) <= LARGEST else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for one in inner if (found := _beyond(one)) is not None), None)
