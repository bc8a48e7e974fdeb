"""Each option is declared once, and everything that shows it follows."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import illama_deploy
from illama_deploy.cli import app
from illama_deploy.errors import UsageError
from illama_deploy.options import Options, argument, group, option
from illama_deploy.options.publish import STEPS, functions_page, options_page
from illama_deploy.options.steps import ExportLine

PACKAGE = Path(illama_deploy.__file__).parent


@dataclass(frozen=True)
class Clock(Options):
    threads: int = option(1, "Threads.", low=1, high=8, unit="threads")
    batch: tuple[int, ...] = option((1,), "Batch.", low=1)
    scheme: str = option("plain", "Scheme.", choices=("plain", "odd"))
    place: Path | None = option(None, "Place.")


@dataclass(frozen=True)
class Timed(Options):
    artifact: str | None = argument(None, "Artifact.")
    clock: Clock = group(Clock, batch=(1, 8))

    def check(self) -> None:
        if self.artifact == "x" and self.clock.threads > 1:
            raise UsageError("x takes one thread.")


def test_flat_and_together_are_the_same() -> None:
    flat = Timed.take("a", threads=2, place="p")
    assert flat == Timed("a", Clock(threads=2, batch=(1, 8), place=Path("p")))
    assert Timed.take(**flat.flat()) == flat
    assert flat.but(threads=3).clock.threads == 3
    assert Timed.take().clock.batch == (1, 8)
    assert Timed.take(batch=4).clock.batch == Timed.take(batch=[4]).clock.batch == (4,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threads": 0}, "`threads` cannot be 0"),
        ({"threads": 9}, "1 to 8 threads"),
        ({"batch": [1, 0]}, "`batch` cannot be 0"),
        ({"scheme": "even"}, "no `scheme` 'even'"),
        ({"artifact": "x", "threads": 2}, "x takes one thread"),
    ],
)
def test_what_is_out_of_range(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        Timed.take(**given)
    assert says in str(raised.value)


@pytest.mark.parametrize("given", [{"thread": 1}, {"clock": Clock()}])
def test_what_is_unknown(given: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="no option"):
        Timed.take(**given)
    with pytest.raises(TypeError, match="twice"):
        Timed.take("a", artifact="b")
    with pytest.raises(TypeError, match="by position"):
        Timed.take("a", "b")


@pytest.mark.parametrize("name", STEPS)
def test_the_function_and_the_command_take_them(name: str) -> None:
    """The same names and defaults, once each."""
    options = ExportLine if name == "export" else STEPS[name]
    found = options.found()
    assert len({one.name for one in found}) == len(found)
    flags = [flag for one in found for flag in (one.flag, one.declared.no) if flag]
    assert len(set(flags)) == len(flags)
    [registered] = [each.callback for each in app.registered_commands if each.callback.__name__ == name]
    assert list(inspect.signature(registered).parameters) == [one.name for one in found if one.flag]
    if name in illama_deploy.__all__:
        function = illama_deploy.export.__call__ if name == "export" else getattr(illama_deploy, name)
        if name != "export":
            parameters = inspect.signature(function).parameters
            assert {key: each.default for key, each in parameters.items()} == {one.name: one.default for one in found}


def test_no_help_and_no_default_is_written_twice() -> None:
    """A text is declared in one place; another place names it."""
    texts: Counter[str] = Counter()
    for path in sorted((PACKAGE / "options").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("option", "argument"):
                help_ = node.args[1]
                if isinstance(help_, ast.Constant):
                    texts[help_.value] += 1
    assert sum(texts.values()) > 80
    assert [text for text, count in texts.items() if count > 1] == []


def test_help_says_what_it_does() -> None:
    for options in STEPS.values():
        for one in options.found():
            help_ = one.declared.help
            assert help_.endswith((".", "…")) or " | " in help_, one
            assert len(help_.split()) > 1 or one.declared.otherwise, one


def test_no_step_declares_an_option_itself() -> None:
    """A step's function has one parameter: its options."""
    for name in STEPS:
        tree = ast.parse((PACKAGE / "steps" / f"{name}.py").read_text(encoding="utf-8"))
        [step] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert [argument.arg for argument in step.args.args + step.args.kwonlyargs] == ["options"]


@pytest.mark.parametrize(
    ("path", "made"),
    [(PACKAGE / "__init__.pyi", functions_page), (PACKAGE.parent / "docs" / "options.md", options_page)],
    ids=["functions", "page"],
)
def test_what_is_made_from_them_is_current(path: Path, made: object) -> None:
    assert path.read_text(encoding="utf-8") == made(), "run python -m illama_deploy.options.publish"  # type: ignore[operator]


def test_the_command_line_says_which_commands_there_are_and_nothing_else() -> None:
    assert len((PACKAGE / "cli.py").read_text(encoding="utf-8").splitlines()) < 400
