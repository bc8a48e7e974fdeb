"""What networks are for. One file each; everything that a task decides is a field or a method of its value."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..task_names import LINES
from .task import AccuracyFigures, ComparisonFigures, Measured, Task

__all__ = ["TASKS", "AccuracyFigures", "ComparisonFigures", "Measured", "Task", "find_task", "task_of"]

#: Each line's file holds a `TASK`.
TASKS: dict[str, Task] = {line.name: import_module(f".{line.name}", __name__).TASK for line in LINES}


def find_task(name: str) -> Task:
    """The task of that name, which a network, a file or a data source gives."""
    return TASKS[name]


def task_of(report: dict[str, Any]) -> Task:
    """The task of a report's artifacts; a report that does not say it is of the first."""
    return TASKS[report["data"].get("task", LINES[0].name)]
