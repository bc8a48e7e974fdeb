"""Categories of classes: which of a network's classes stand for an airplane, a bird, ..."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ArtifactError, DataError, UsageError, parameter
from ..sealed import parse_json, read_text
from ..tables import typed

__all__ = ["IMAGENET16", "read_categories"]

#: The 16 entry-level categories of Geirhos et al. 2019 as ImageNet-1k class indices.
IMAGENET16 = Path(__file__).parents[1] / "assets" / "imagenet16.json"
IMAGENET_CLASSES = 1000


def read_categories(path: str | Path | None, classes: int, names: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """Read which classes make up each category.

    Args:
        path: JSON, `{"categories": {NAME: [CLASS, ...]}}` or the inner table alone; a class is its number or its name.
            `IMAGENET16` where not given.
        classes: of the network.
        names: of its classes in label order, or empty where unknown.

    Raises:
        UsageError: no file is given, and the network has other classes than ImageNet-1k.
        DataError: the file cannot be read, or names what the network does not have; an empty or shared class list.
    """
    if path is None:
        if classes != IMAGENET_CLASSES:
            raise UsageError(
                f"The network has {classes} classes, so ImageNet's categories do not fit it.",
                hint=f"Say which classes make up each with {parameter(categories='FILE')}, a JSON such as "
                f'{{"boat": [8], "car": [1]}}.',
            )
        path = IMAGENET16
    path = Path(path)
    try:
        content = parse_json(read_text(path, "The mapping", "Check the path."))
    except ArtifactError as error:
        raise DataError(error.what, where=path, hint="Check the path.") from error
    except ValueError as error:
        raise DataError(f"The mapping is no JSON: {error}.", where=path, hint="Mend the file.") from error
    table = content.get("categories", content) if isinstance(content, dict) else None
    try:
        lists = typed(dict[str, list[int | str]], table)
    except ValueError as error:
        lists, why = {}, str(error)
    else:
        why = "a category is empty, or there is none"
    if not lists or not all(lists.values()):
        raise DataError(
            f"The mapping is no table of categories, each with a list of classes ({why}).",
            where=path,
            hint='Write it as {"boat": [8], "car": [1]}, with class numbers or names.',
        )
    categories = {
        name: tuple(_number(one, name, classes, names, path) for one in found) for name, found in lists.items()
    }
    _check_disjoint(categories, path)
    return categories


def _number(one: int | str, category: str, classes: int, names: Sequence[str], where: Path) -> int:
    if isinstance(one, str) and names:
        if one in names:
            return list(names).index(one)
        near = difflib.get_close_matches(one, names, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(names[:16])}."
        raise DataError(f"The network has no class {one!r} (category {category!r}).", where=where, hint=hint)
    if isinstance(one, str):
        raise DataError(
            f"Category {category!r} names the class {one!r}, and the names of the network's classes are not known.",
            where=where,
            hint="Write class numbers instead.",
        )
    if not 0 <= one < classes:
        raise DataError(
            f"Category {category!r} has {one!r}; the network's classes are 0 to {classes - 1}.",
            where=where,
            hint="Use the mapping of this network's own classes.",
        )
    return one


def _check_disjoint(categories: Mapping[str, Sequence[int]], where: Path) -> None:
    owner: dict[int, str] = {}
    for name, found in categories.items():
        for one in found:
            if one in owner:
                raise DataError(
                    f"Class {one} stands in {owner[one]!r} and again in {name!r}.",
                    where=where,
                    hint="A class belongs to one category, once.",
                )
            owner[one] = name
