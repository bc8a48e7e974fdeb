"""From options to a command line, and from a command line to an exit code.

Kept light: torch, onnx and timm are imported by the commands that need them, never for --help.
Exit codes: 0 done (or passed), 1 a gate failed, 2 an error or wrong usage, 3 inconclusive.
"""

from __future__ import annotations

import inspect
import io
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import typer

from .console import say, steady_streams
from .ending import INTERRUPTED, came_from_stop, close, ended, listen, stop_listening, work
from .errors import DeployError, parameters_as
from .options import Found, Options, steps
from .workspace import Workspace

__all__ = ["AsFlags", "command", "make_app", "run", "typed"]

O = TypeVar("O", bound=Options)  # noqa: E741

#: What the command line was given, for reports; None where it is the process's own.
_arguments: Sequence[str] | None = None
#: What typer turns Ctrl-C into.
SIGINT_CODE = 130


def make_app(help: str) -> typer.Typer:
    """A command line without commands."""
    return typer.Typer(
        name="illama-deploy",
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def command(app: typer.Typer, options: type[O]) -> Callable[[Callable[[O], Any]], Callable[[O], Any]]:
    """Make a command of a function of its options, which has their docstring for help."""

    def register(do: Callable[[O], Any]) -> Callable[[O], Any]:
        found = [one for one in options.found() if one.flag]
        names = {one.name for one in options.found()}

        def line(**flat: Any) -> Any:
            given = {one.name: _value(one, flat[one.name]) for one in found}
            if "say" in names:
                given["say"] = say
            if "workspace" in names:  # where somebody types commands, there is always one
                given["workspace"] = given["workspace"] or Workspace()
            with parameters_as(AsFlags(options)):
                return do(options.take(**given))

        line.__name__, line.__doc__ = do.__name__, options.__doc__
        line.__signature__ = inspect.Signature([_parameter(one) for one in found])  # type: ignore[attr-defined]
        app.command()(line)
        return do

    return register


def _parameter(one: Found) -> inspect.Parameter:
    """What typer reads of an option."""
    about = one.declared
    kind = _kind(one)
    nothing = one.default is None or one.default == ()
    about_default: dict[str, Any] = {"show_default": about.otherwise or False} if nothing else {}
    if about.unit and kind is not bool:
        about_default["metavar"] = f"<{about.unit}>"
    declared = (
        typer.Argument(help=about.help, **about_default)
        if about.is_argument
        else typer.Option(f"{one.flag}/{about.no}" if about.no else one.flag, help=about.help, **about_default)
    )
    default = list(one.default) if isinstance(one.default, tuple) else one.default
    annotated = Annotated[kind | None if default is None or nothing else kind, declared]  # type: ignore[valid-type]
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=None if nothing else default, annotation=annotated
    )


def _kind(one: Found) -> Any:
    """The type that typer reads."""
    if one.declared.kind is not None:
        return one.declared.kind
    return list[one.item] if one.is_list else one.item  # type: ignore[name-defined]


def _value(one: Found, value: Any) -> Any:
    return one.default if value is None or value == [] else value


@dataclass(frozen=True)
class AsFlags:
    """How messages name options to who typed a command: by its flags, or, of another command's options, by theirs.

    A `Spelling` that can be handed to worker processes.
    """

    options: type[Options]

    def __call__(self, names: tuple[str, ...], values: Mapping[str, object]) -> str:
        own = _flags(self.options)
        if values:
            return " ".join(_typed(own.get(name) or _elsewhere(name), value) for name, value in values.items())
        return next((own[name].flag for name in names if name in own), None) or _elsewhere(names[0]).flag


class Flag(NamedTuple):
    """An option's flag, and that which turns it off."""

    flag: str
    no: str | None = None
    renamed: bool = False


def _flags(options: type[Options]) -> dict[str, Flag]:
    """Those of a command, by the option's name in Python."""
    flags = (one for one in options.found() if one.flag and not one.declared.is_argument)
    return {one.name: Flag(one.flag, one.declared.no, bool(one.declared.flag)) for one in flags}


def _elsewhere(name: str) -> Flag:
    """The flag of an option of whichever command has it; one that is not called like the option goes first."""
    found = [flags[name] for each in steps.__all__ if name in (flags := _flags(getattr(steps, each)))]
    return next((flag for flag in found if flag.renamed), found[0] if found else Flag(f"--{name.replace('_', '-')}"))


def _typed(flag: Flag, value: object) -> str:
    """A flag and its value as they are typed."""
    if isinstance(value, bool):
        return flag.flag if value else flag.no or flag.flag
    return " ".join(f"{flag.flag} {shlex.quote(str(one))}" for one in (value if isinstance(value, list) else [value]))


def typed() -> str:
    """The command line, as it can be typed again."""
    return shlex.join(["illama-deploy", *(_arguments if _arguments is not None else sys.argv[1:])])


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: with what it found out, or with 2 and one message where a user can mend something.

    Args:
        arguments: the process's own where not given.
    """
    global _arguments  # noqa: PLW0603  (one command line in a process)
    _arguments = arguments
    listen()
    try:
        with steady_streams():
            code = _guarded(lambda: app(args=arguments, standalone_mode=False))
        ended(code)
    finally:
        if arguments is not None:  # the process goes on
            stop_listening()
    sys.exit(code)


def _guarded(do: Callable[[], Any]) -> int:
    try:
        work()
        try:
            code = do()
            if code == SIGINT_CODE:
                raise KeyboardInterrupt
        finally:
            close()
    except (KeyboardInterrupt, typer.Abort):
        return _fail(INTERRUPTED)
    except Exception as error:
        if came_from_stop(error):
            return _fail(INTERRUPTED)
        if isinstance(error, DeployError):
            return _fail(str(error))
        # torch reports a failed allocation as a RuntimeError.
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return _fail("Out of memory.\n  next:  use a smaller --batch, --calib-batch or --image-size.")
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a wrong command line, as click reports it
            shown = io.StringIO()
            error.show(file=shown)
            say(shown.getvalue().rstrip(), error=True)
            return 2
        if os.environ.get("ILLAMA_DEPLOY_DEBUG"):
            raise
        return _fail(
            f"Unexpected {type(error).__name__}: {error}\n"
            "  next:  this is a fault of illama-deploy; please report it with what\n"
            "         ILLAMA_DEPLOY_DEBUG=1 prints for the same command."
        )
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    say(f"error: {message}", error=True)
    return 2
