"""Progress on standard error, where a person is watching; silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["status", "track"]

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield `items`, showing a bar of `total` steps; an item that is sized along axis 0 counts as its length."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task, _size(item))


@contextmanager
def status(description: str) -> Iterator[None]:
    """Show a spinner while something without steps goes on."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(description):
        yield


def _size(item: object) -> int:
    images = getattr(item, "images", item)
    shape = getattr(images, "shape", None)
    return int(shape[0]) if shape else 1
