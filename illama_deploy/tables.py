"""Frozen values from TOML tables: unknown keys and wrong types are named, with what was probably meant."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import DeployError, RecipeError

__all__ = ["check_types", "from_table", "of_type", "plain_values", "read_toml", "require_known", "shortened", "typed"]

T = TypeVar("T")

#: Bytes of a recipe, at most.
LARGEST = 2**16
#: A dotted key takes its parser memory and time by the square of its parts: 0.2 MB of them took 9.5 GB.
LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){32}""")

#: Annotation to (accepted types, what to call them). A list is taken for a tuple, a whole number for a number.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((float,), "a number"),
    "tuple[str, ...]": ((str,), "a list of strings"),
    "tuple[float, ...]": ((float,), "a list of numbers"),
    "tuple[int, int]": ((int,), "a list of two whole numbers"),
}


def typed(kind: type[T], value: Any) -> T:
    """A typed value of what a file holds: numbers, texts, lists and tables as JSON and TOML know them.

    Args:
        kind: a frozen dataclass, or any annotation: `dict[str, float]`, `tuple[int, int]`, `int | None`. A text is no
            number here, and a number with a fraction no whole one; what a dataclass does not name is left out.

    Raises:
        ValueError: in words, with the place (`$.a.b`).
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("Expected", "expected", 1)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_types(value: Any, *, skip: Iterable[str] = ()) -> None:
    """Check the fields of a frozen dataclass against their annotations, in place (for `__post_init__`).

    Raises:
        RecipeError: naming the first that has another type.
    """
    for field in fields(value):
        if field.name not in skip:
            object.__setattr__(value, field.name, of_type(field.name, str(field.type), getattr(value, field.name)))


def of_type(key: str, annotation: str, given: Any) -> Any:
    """A value of a recipe's key, of the type that an annotation names: a tuple of a list, a number of a whole one.

    Raises:
        RecipeError: it has another type, or is no finite number, or none of 64 bits.
    """
    kinds, name = KINDS[annotation]
    plural = annotation.startswith("tuple")
    items = given if plural and isinstance(given, list | tuple) else (given,)
    fits = plural == isinstance(given, list | tuple) and all(
        (isinstance(item, kinds) or (kinds == (float,) and isinstance(item, int)))
        and (bool in kinds or not isinstance(item, bool))
        for item in items
    )
    if not fits or ("two" in name and len(items) != 2):
        raise RecipeError(f"Recipe key {key!r} needs {name}, not {shortened(given)}.", hint="Mend it.")
    for item in items:
        if not (math.isfinite(item) if isinstance(item, float) else isinstance(item, str) or abs(item) < 2**63):
            raise RecipeError(f"Recipe key {key!r} is out of range: {shortened(item)}.", hint="Mend it.")
    items = tuple(float(item) if kinds == (float,) else item for item in items)
    return items if plural else items[0]


def shortened(value: Any) -> str:
    """What a message shows of a value from a file."""
    if type(value) is int and abs(value) >= 2**63:
        return "a whole number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def require_known(keys: Iterable[str], known: Iterable[str], *, where: object | None = None) -> None:
    """Refuse a key that is not known.

    Raises:
        RecipeError: naming it and the nearest known one.
    """
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key[:80], known, 1)
            raise RecipeError(
                f"The recipe has an unknown key {shortened(key)}.",
                where=where,
                hint=f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}.",
            )


def from_table(cls: type[T], values: Mapping[str, Any], *, where: object | None = None) -> T:
    """Build a frozen dataclass from plain values.

    Raises:
        RecipeError: an unknown key (the nearest known one is named) or a value of another type.
    """
    require_known(values, [field.name for field in fields(cls)], where=where)  # type: ignore[arg-type]
    try:
        return cls(**values)
    except DeployError as error:
        error.where = error.where or where
        raise


def plain_values(value: Any) -> dict[str, Any]:
    """Fields of a frozen dataclass as plain values, for JSON."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(value).items()}


def read_toml(name: str | Path, shipped: Path) -> tuple[dict[str, Any], Path]:
    """Read a TOML file, or the one of that name in the folder `shipped`: (values, the path read).

    Raises:
        RecipeError: not there, or not TOML.
    """
    path = Path(name)
    try:
        if not path.exists() and (shipped / f"{name}.toml").is_file():
            path = shipped / f"{name}.toml"
        if path.exists() and not path.is_file():
            raise RecipeError("The recipe is no regular file.", where=path, hint="Name a TOML file.")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in shipped.glob("*.toml")))
        raise RecipeError(
            f"Cannot read the recipe: {error.strerror}.", where=path, hint=f"Shipped recipes: {names}."
        ) from error
    try:
        text = data.decode("utf-8")
        if len(data) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST // 1024} KiB")
        if LONG_KEY.search(text):
            raise ValueError("a key in it has more than 32 parts")
        return tomllib.loads(text), path
    except RecursionError:
        raise RecipeError("The recipe is not TOML: it is nested too deeply.", where=path, hint="Mend it.") from None
    except ValueError as error:  # no UTF-8, no TOML, a number of thousands of digits
        what = str(error).rstrip(".")
        raise RecipeError(f"The recipe is not TOML: {what[:200]}.", where=path, hint="Mend the file.") from error
