"""What networks are for. One file each; everything that a task decides is a field or a method of its value."""

from __future__ import annotations

from typing import Any

from ..task_names import LINES
from .classification import CLASSIFICATION
from .segmentation import SEGMENTATION
from .task import AccuracyFigures, ComparisonFigures, Measured, Task

__all__ = ["TASKS", "AccuracyFigures", "ComparisonFigures", "Measured", "Task", "find_task", "task_of"]

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, SEGMENTATION)}


def find_task(name: str) -> Task:
    """The task of that name, which a network, a file or a data source gives."""
    return TASKS[name]


def task_of(report: dict[str, Any]) -> Task:
    """The task of a report's artifacts; a report that does not say it is of the first."""
    return TASKS[report["data"].get("task", LINES[0].name)]
