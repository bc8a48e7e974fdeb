"""A step as a function that takes its options flat, by name, or put together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .declare import Options

__all__ = ["Step", "step"]

R = TypeVar("R")
O = TypeVar("O", bound=Options)  # noqa: E741


class Step(Generic[O, R]):
    """A step, callable as `quantize("x.pth", bits=8)` and as `quantize(QuantizeOptions(...))`.

    Attributes:
        options: what it takes.
    """

    def __init__(self, options: type[O], do: Callable[[O], R]) -> None:
        functools.update_wrapper(self, do)
        self.options, self.do = options, do
        found = options.found()
        first = [one for one in found if one.first]
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(one.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=one.default) for one in first]
            + [
                inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default)
                for one in found
                if not one.first
            ]
        )

    def __call__(self, *given: Any, **flat: Any) -> R:
        if len(given) == 1 and isinstance(given[0], self.options) and not flat:
            return self.do(given[0])
        return self.do(self.options.take(*given, **flat))


def step(options: type[O]) -> Callable[[Callable[[O], R]], Step[O, R]]:
    """Make a step of a function of its options."""
    return lambda do: Step(options, do)
