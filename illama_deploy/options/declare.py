"""How an option is declared: once, with its help, unit, range and default. The command line, the Python function and
docs/options.md are made from that.

An option is a field of a frozen dataclass (`Options`); such classes are put together into what a step takes:

    @dataclass(frozen=True)
    class Timing(Options):
        threads: int = option(1, "Threads that each artifact may use.", low=1)

    @dataclass(frozen=True)
    class BenchOptions(Options):
        artifacts: tuple[str, ...] = argument((), "Artifacts to time.")
        timing: Timing = group(Timing, threads=2)     # with another default

    BenchOptions.take(["a.onnx"], threads=4)          # flat, as Python and the command line give them
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin

from ..errors import UsageError, parameter

__all__ = ["Declared", "Found", "Options", "argument", "group", "option"]


@dataclass(frozen=True)
class Declared:
    """What is said of an option besides its name, type and default.

    Attributes:
        help: what it does, a sentence.
        unit: of its value, such as `images`.
        low, high: its range, both included.
        choices: the only values that it takes.
        otherwise: what is taken where it is not given.
        flag: on the command line, where that is not its name with dashes; empty: it is for Python alone.
        no: flag that turns it off, of a bool that is on by default or may be either.
        parse: makes its value of what is given; a UsageError says what is wrong with it.
        kind: type that the command line reads where it is not that of the field.
        is_argument: given by position on the command line.
        python: type to show in Python where the field's says less.
    """

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    otherwise: str = ""
    flag: str | None = None
    no: str | None = None
    parse: Callable[[Any], Any] | None = None
    kind: Any = None
    is_argument: bool = False
    python: str = ""


def option(default: Any, help: str, **about: Any) -> Any:
    """A field that is an option; `about` goes to `Declared`."""
    return field(default=default, metadata={"option": Declared(help, **about)})


def argument(default: Any, help: str, **about: Any) -> Any:
    """An option that is given by position; `is_argument=False`: in Python alone."""
    return field(default=default, metadata={"option": Declared(help, **{"is_argument": True, **about}), "first": True})


def group(options: type[Options], **defaults: Any) -> Any:
    """A field that holds options which belong together, with other defaults for some of them."""
    return field(default_factory=lambda: options(**defaults), metadata={"group": options})


@dataclass(frozen=True)
class Found:
    """An option among all of a class.

    Attributes:
        name: in Python.
        type: of the field.
        path: names of the groups that it stands in.
        first: whether Python takes it by position, too.
    """

    name: str
    type: Any
    default: Any
    declared: Declared
    path: tuple[str, ...]
    first: bool

    @property
    def flag(self) -> str:
        """On the command line; empty where it is for Python alone."""
        return f"--{self.name.replace('_', '-')}" if self.declared.flag is None else self.declared.flag

    @property
    def is_list(self) -> bool:
        """Whether it holds several values."""
        return get_origin(_bare(self.type)) in (tuple, list)

    @property
    def item(self) -> Any:
        """The type of its value, or of each of several."""
        kind = _bare(self.type)
        return get_args(kind)[0] if self.is_list else kind


@dataclass(frozen=True)
class Options:
    """Options that belong together. What is out of range is refused when they are made."""

    def __post_init__(self) -> None:
        for one in self.found():
            if not one.path:
                object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))
        self.check()

    def check(self) -> None:
        """Refuse options that do not fit together.

        Raises:
            UsageError: they do not.
        """

    @classmethod
    def found(cls) -> tuple[Found, ...]:
        """All of its options, those of its groups included, in order."""
        return _found(typing.cast(Any, cls))

    @classmethod
    def take(cls, *given: Any, **flat: Any) -> Self:
        """Put options together that are given flat: the first by position, others by name.

        Raises:
            TypeError: one is not known, or given twice.
            UsageError: one is out of range, or they do not fit together.
        """
        found = cls.found()
        first = [one.name for one in found if one.first]
        if len(given) > len(first):
            raise TypeError(f"{len(given)} values are given by position, and {len(first)} can be")
        for name, value in zip(first, given, strict=False):
            if name in flat:
                raise TypeError(f"{name} is given twice")
            flat[name] = value
        defaults = {one.name: one.default for one in found}
        if unknown := flat.keys() - defaults.keys():
            raise TypeError(f"there is no option {sorted(unknown)[0]!r}")
        return typing.cast(Self, _build(cls, defaults | flat))

    def flat(self) -> dict[str, Any]:
        """Every option's value by its name."""
        values = {}
        for one in self.found():
            value: Any = self
            for name in (*one.path, one.name):
                value = getattr(value, name)
            values[one.name] = value
        return values

    def but(self, **flat: Any) -> Self:
        """The same options with some of them replaced."""
        return type(self).take(**{**self.flat(), **flat})


@cache
def _found(cls: type[Options]) -> tuple[Found, ...]:
    return tuple(_walk(cls, (), None))


def _walk(cls: type[Options], path: tuple[str, ...], values: Options | None) -> Iterator[Found]:
    types = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if "group" in each.metadata:
            holder = getattr(values, each.name) if values is not None else typing.cast(Any, each.default_factory)()
            yield from _walk(each.metadata["group"], (*path, each.name), holder)
        else:
            default = each.default if values is None else getattr(values, each.name)
            yield Found(each.name, types[each.name], default, each.metadata["option"], path, "first" in each.metadata)


def _build(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """Put together from values by name, which is an option's alone in all groups."""
    return cls(
        **{
            each.name: _build(each.metadata["group"], values) if "group" in each.metadata else values[each.name]
            for each in dataclasses.fields(cls)
        }
    )


def _bare(kind: Any) -> Any:
    """The type without None."""
    if get_origin(kind) in (Union, UnionType):
        rest = [each for each in get_args(kind) if each is not type(None)]
        return rest[0]
    return kind


def _checked(one: Found, value: Any) -> Any:
    """The value as its field holds it, or a UsageError that names the option."""
    about = one.declared
    if value is None:
        return value
    if about.parse is not None:
        value = about.parse(value)
    if one.is_list:
        value = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)
        for each in value:
            _require(one, each)
        return value
    if one.item is Path and isinstance(value, str):
        value = Path(value)
    _require(one, value)
    return value


def _require(one: Found, value: Any) -> None:
    about = one.declared
    if about.choices and value not in about.choices:
        raise UsageError(
            f"There is no {parameter(one.name)} {value!r}.", hint=f"Use one of: {', '.join(about.choices)}."
        )
    low, high = about.low, about.high
    if (low, high) == (None, None) or not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        name = parameter(one.name)
        raise UsageError(f"{name} cannot be {value:g}.", hint=f"{name} is {range_words(about)}.")


def range_words(about: Declared) -> str:
    """What values it takes, in words; empty where any do."""
    unit = f" {about.unit}" if about.unit else ""
    if about.low is not None and about.high is not None:
        return f"{about.low:g} to {about.high:g}{unit}"
    if about.low is not None:
        return f"at least {about.low:g}{unit}"
    return f"at most {about.high:g}{unit}" if about.high is not None else ""
