"""Which figures a report goes by, task by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["TASKS", "Task", "task_of"]


@dataclass(frozen=True)
class Task:
    """What a network's accuracy is called, and where it stands.

    Attributes:
        title: of the figure that is gated, for people; in percent.
        figure: its key in an artifact's accuracy.
        drop: key of its drop in an artifact's comparison.
        drop_gate, change_gate, least_gate: names of the gates on it.
        figures: key, title and digits of all figures of accuracy.
    """

    title: str
    figure: str
    drop: str
    drop_gate: str
    change_gate: str
    least_gate: str
    figures: tuple[tuple[str, str, int], ...]


TASKS = {
    "classification": Task(
        *("top-1", "top1", "top1_drop", "accuracy_drop", "accuracy_change", "min_top1"),
        (("top1", "top-1 %", 2), ("top5", "top-5 %", 2), ("ece", "ECE", 4), ("nll", "NLL", 4), ("brier", "Brier", 4)),
    ),
    "segmentation": Task(
        *("mIoU", "miou", "miou_drop", "miou_drop", "miou_change", "min_miou"),
        (("miou", "mIoU %", 2), ("pixel_accuracy", "pixel accuracy %", 2), ("mean_accuracy", "mean accuracy %", 2)),
    ),
}


def task_of(report: dict[str, Any]) -> Task:
    """The task of a report's artifacts; reports of before there were two are of classification."""
    return TASKS[report["data"].get("task", "classification")]
