"""Frozen values from TOML tables: unknown keys and wrong types are named, with what was probably meant."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import DeployError, RecipeError

__all__ = ["check_types", "from_table", "plain_values", "read_toml", "require_known", "typed"]

T = TypeVar("T")

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
        if field.name in skip:
            continue
        kinds, name = KINDS[str(field.type)]
        given = getattr(value, field.name)
        plural = str(field.type).startswith("tuple")
        items = given if plural and isinstance(given, list | tuple) else (given,)
        items = tuple(float(item) if kinds == (float,) and type(item) is int else item for item in items)
        fits = all(isinstance(item, kinds) and (bool in kinds or not isinstance(item, bool)) for item in items)
        if not fits or plural != isinstance(given, list | tuple) or ("two" in name and len(items) != 2):
            raise RecipeError(f"Recipe key {field.name!r} needs {name}, not {given!r}.", hint="Mend it.")
        object.__setattr__(value, field.name, items if plural else items[0])


def require_known(keys: Iterable[str], known: Iterable[str], *, where: object | None = None) -> None:
    """Refuse a key that is not known.

    Raises:
        RecipeError: naming it and the nearest known one.
    """
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise RecipeError(
                f"The recipe has an unknown key {key!r}.",
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
    if not path.exists() and (shipped / f"{name}.toml").is_file():
        path = shipped / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), path
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in shipped.glob("*.toml")))
        raise RecipeError(
            f"Cannot read the recipe: {error.strerror}.", where=path, hint=f"Shipped recipes: {names}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe is not TOML: {error}.", where=path, hint="Mend the file.") from error
