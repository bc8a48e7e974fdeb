"""What networks are for: one line a task, light enough to be read before anything heavy is imported.

What a task does is in its file of `tasks/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LINES", "TaskLine", "classes_of", "hint_on_labels", "labels_for", "name_by_logits", "names_by_logits"]


@dataclass(frozen=True)
class TaskLine:
    """One task.

    Attributes:
        name: in metadata, reports and data sources.
        figure, title: the figure of accuracy that is gated, in percent: its key in records, and its name for people.
        axes: of one image's logits. Files that do not say their task are known by it.
        outputs: how many logits there are (along the first axis), where it can be no other number.
        labels: what to say where data of this task meets a network of another, or the other way round.
        measured_by: the task whose labels it is measured with, where it has none of its own. What such networks give
            out are no classes, so the labels' number and names are nothing to hold them to.
    """

    name: str
    figure: str
    title: str
    axes: int
    outputs: int | None = None
    labels: str = ""
    measured_by: str | None = None


LINES = (
    TaskLine("classification", "top1", "top-1", axes=1),
    TaskLine(
        "segmentation",
        "miou",
        "mIoU",
        axes=3,
        labels="Use segmentation:PATH with networks that classify pixels (head_width of a recipe's [model]), and with "
        "no others.",
    ),
    TaskLine("features", "knn", "kNN top-1", axes=1, measured_by="classification"),
)


def names_by_logits(shape: Sequence[object]) -> list[str]:
    """The tasks that logits of this shape can be of, those that ask for exactly so many first; last those that no shape
    tells, since their outputs look like another's."""
    fitting = [line for line in LINES if line.axes == len(shape) and line.outputs in (None, shape[0])]
    ordered = sorted(fitting, key=lambda line: (line.measured_by is not None, line.outputs is None))
    return [line.name for line in ordered]


def labels_for(task: str) -> str:
    """The task whose labels images must have for networks of this one."""
    return next((line.measured_by for line in LINES if line.name == task and line.measured_by), task)


def classes_of(task: str, outputs: int) -> int | None:
    """How many classes labels may be of, for a network of a task that gives out so much; None where that says nothing
    of labels."""
    return outputs if labels_for(task) == task else None


def hint_on_labels(*tasks: str) -> str:
    """What to say where labels of one task meet a network of another."""
    said = (line.labels for line in LINES if line.name in tasks)
    return " ".join(filter(None, said))


def name_by_logits(shape: Sequence[object], said: str | None = None) -> str:
    """The task of a file whose logits of one image have this shape.

    Args:
        said: what the file itself says.

    Raises:
        ValueError: no task has such logits, or the file says another than they allow.
    """
    fitting = names_by_logits(shape)
    if said is not None:
        if said not in fitting:
            raise ValueError(f"logits of {len(shape)} axes are not those of the task {said[:40]!r}")
        return said
    if not fitting:
        raise ValueError(f"no task has logits of {len(shape)} axes")
    return fitting[0]
