"""Progress on standard error, where a person is watching; silence elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .console import one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Phases", "phases", "say", "track"]

T = TypeVar("T")


def say(text: str) -> None:
    """Say what was left out or chosen, in one line on standard error (or wherever an application logs to)."""
    logging.getLogger("illama_deploy").warning("%s", one_line(text))


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield `items`, showing a bar of `total` steps; an item that is sized along axis 0 counts as its length."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:  # a bar that is only disabled ends in a line feed with some versions of rich
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task, _size(item))


class Phases:
    """Nested phases of some work, a bar each; may be told from any thread. Without `progress`, nothing is shown."""

    def __init__(self, progress: Progress | None, description: str) -> None:
        self._progress, self._description = progress, description
        self._tasks: dict[str, TaskID] = {}

    def start(self, name: str, steps: int) -> None:
        """A phase of so many steps begins."""
        if self._progress is not None:
            self._tasks[name] = self._progress.add_task(f"{self._description}: {name}", total=steps)

    def step(self, name: str, number: int) -> None:
        """A step of a phase is done; they count from 0."""
        if self._progress is not None and name in self._tasks:
            self._progress.update(self._tasks[name], completed=number + 1)

    def finish(self, name: str) -> None:
        """A phase ends, and its bar goes."""
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))


@contextmanager
def phases(description: str) -> Iterator[Phases]:
    """Show the phases of something that tells of them itself."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Phases(None, description)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Phases(progress, description)


def _size(item: object) -> int:
    images = getattr(item, "images", item)
    shape = getattr(images, "shape", None)
    return int(shape[0]) if shape else 1
