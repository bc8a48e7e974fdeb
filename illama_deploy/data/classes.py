"""Names of classes: where they come from, and whether those of two places are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError, parameter
from ..names import shown
from .decode import open_regular
from .source import Source

__all__ = [
    "NAMES_FILES",
    "compare_classes",
    "natural_order_note",
    "read_names",
    "read_small",
    "require_classes",
    "same_names",
]

#: Looked for in the data's folder: one name a line, in the order of labels.
NAMES_FILES = ("classes.txt", "class_names.txt")
#: Bytes of such a file.
MOST_BYTES = 4_000_000
#: Rows of a comparison that are shown.
SHOWN = 5


def read_small(path: Path) -> str:
    """The text of a file that has no reason to be large.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is too long, or no UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("it is too long")
    return content.decode("utf-8-sig")


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names in the order of labels: one a line, or a JSON list (`.json`).

    Raises:
        DataError: it cannot be read, or a name stands in it twice.
    """
    hint = "Write one class name a line, in the order of labels."
    try:
        text = read_small(path)
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("it is no list of names")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The class names cannot be read: {error}.", where=shown(path), hint=hint) from error
    names = [shown(name) for name in names if name.strip()]
    if twice := [name for i, name in enumerate(names) if name in names[:i]][:1] if len(names) < 10**5 else []:
        raise DataError(f"The class {twice[0]!r} is named twice.", where=shown(path), hint=hint)
    if not names:
        raise DataError("It names no class.", where=shown(path), hint=hint)
    return tuple(names)


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether they name the same classes in the same order; case, spaces, `_` and `-` aside."""
    return [_plain(name) for name in one] == [_plain(name) for name in other]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def compare_classes(
    one: Sequence[str], other: Sequence[str], *, whose: tuple[str, str], where: object, hint: str
) -> None:
    """Hold the class names of two places to each other.

    Args:
        whose: what each is called, such as ("network", "data").

    Raises:
        DataError: they differ, or their order does; the first differences stand side by side.
    """
    if same_names(one, other):
        return
    wrong = [i for i in range(len(one)) if i >= len(other) or _plain(one[i]) != _plain(other[i])]
    wrong += range(len(one), len(other))
    reordered = sorted(map(_plain, one)) == sorted(map(_plain, other))
    rows: list[tuple[str, ...]] = [("class", *whose)]
    for i in wrong[:SHOWN]:
        rows.append((str(i), *(shown(names[i]) if i < len(names) else "-" for names in (one, other))))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    table = "\n".join(f"    {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
    more = f"\n    … and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    those = "those of the {} in another order" if reordered else "not those of the {}"
    raise DataError(
        f"The classes of the {whose[1]} are {those.format(whose[0])}:\n{table}{more}", where=where, hint=hint
    )


def require_classes(
    source: Source, classes: int | None, names: Sequence[str] = (), *, labels: bool = True, whose: str = "network"
) -> None:
    """Hold the classes of a source to a network's.

    Args:
        classes: their number; None where the network has none, and any labels do.
        names: in label order, or empty where unknown.
        labels: whether labels are needed. Without, the data may show other classes, or some; but the same number of
            others, or another order, means that something is mixed up.

    Raises:
        DataError: another number, other names, or another order.
    """
    own = source.classes
    if not own or classes is None or (len(own) != classes and not labels):
        return
    if len(own) != classes:
        raise DataError(
            f"The data has {len(own)} classes and the {whose} {classes}.",
            where=shown(source.spec),
            hint="Give the data that the network was trained for.",
        )
    if names and source.by_name:
        spec = shown(source.spec)
        compare_classes(
            names,
            own,
            whose=(whose, "data"),
            where=spec,
            hint="Give the data that the network was trained for. Where it says the order of its classes wrongly, "
            f"write them in label order, one a line, and say {_with(spec, 'FILE')}; where only names differ and labels "
            f"are right, say {_with(spec, 'ignore')}.",
        )


def _with(spec: str, value: str) -> str:
    return parameter(data=f"{spec}{'&' if '?' in spec else '?'}classes={value}")


def natural_order_note(names: Sequence[str]) -> str | None:
    """What to say where names that hold numbers do not follow their numbers."""

    def key(name: str) -> list[tuple[int, int, str]]:
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]

    if not names or list(names) == sorted(names, key=key):
        return None
    first = next(i for i, name in enumerate(sorted(names, key=key)) if names[i] != name)
    return (
        f"classes are numbered in the alphabetical order of their names, as torchvision does: {first} is "
        f"{names[first]!r}; say another order in {NAMES_FILES[0]}"
    )
