"""What networks are for: one line a task, light enough to be read before anything heavy is imported.

What a task does is in its file of `tasks/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LINES", "TaskLine", "name_by_logits"]


@dataclass(frozen=True)
class TaskLine:
    """One task.

    Attributes:
        name: in metadata, reports and data sources.
        figure, title: the figure of accuracy that is gated, in percent: its key in records, and its name for people.
        axes: of one image's logits. Files that do not say their task are known by it.
    """

    name: str
    figure: str
    title: str
    axes: int


LINES = (
    TaskLine("classification", "top1", "top-1", axes=1),
    TaskLine("segmentation", "miou", "mIoU", axes=3),
)


def name_by_logits(shape: Sequence[object], said: str | None = None) -> str:
    """The task of a file whose logits of one image have this shape.

    Args:
        said: what the file itself says.

    Raises:
        ValueError: no task has such logits, or the file says another than they allow.
    """
    fitting = [line.name for line in LINES if line.axes == len(shape)]
    if said is not None:
        if said not in fitting:
            raise ValueError(f"logits of {len(shape)} axes are not those of the task {said[:40]!r}")
        return said
    if not fitting:
        raise ValueError(f"no task has logits of {len(shape)} axes")
    return fitting[0]
