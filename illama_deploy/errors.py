"""What can go wrong, as a user sees it.

    DeployError                 exit code 2; the CLI prints it without a traceback
    ├── UsageError              options that do not fit together, or name nothing
    ├── RecipeError             a recipe that cannot be read or asks for what does not exist
    ├── CheckpointError         a checkpoint that cannot be read, or is not an iLLaMA
    ├── DataError               a data spec, folder, file or image that cannot be used
    ├── ArtifactError           an artifact that exists, is damaged, or cannot be written
    ├── TrainingError           a training that stopped: the loss is no number, a signal, a worker that died
    ├── ExportError             the exported graph is not what the recipe promised
    └── RuntimeUnavailableError a target that cannot run here

Each says what was wrong, where, and what to do next. Options stand in it as `parameter("max_drop")` gives them: as code
to who calls from Python, as the flag to who typed a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from .names import shown

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "DeployError",
    "ExportError",
    "RecipeError",
    "RuntimeUnavailableError",
    "Spelling",
    "TrainingError",
    "UsageError",
    "parameter",
    "parameters_as",
    "spell",
    "spelling",
]

#: Control characters that a message may hold.
KEPT = "\n\t"
#: Writes an option by one of the names that it has in several steps, or options with the values to give them.
Spelling = Callable[[tuple[str, ...], Mapping[str, object]], str]


def _as_python(names: tuple[str, ...], values: Mapping[str, object]) -> str:
    if values:
        return f"`{', '.join(f'{name}={value!r}' for name, value in values.items())}`"
    return " or ".join(f"`{name}`" for name in names)


# Of the process, and not of a thread: what a command lets threads do belongs to it, too.
_spelling: Spelling = _as_python


def parameter(*names: str, **values: object) -> str:
    """Options as whoever reads the message gives them; made with the message, and of no other use.

    Args:
        names: of one option; several where steps call it differently.
        values: instead of them: what to give to options.
    """
    return _spelling(names, values)


@contextmanager
def parameters_as(way: Spelling) -> Iterator[None]:
    """Write options in this way in the messages that are made meanwhile; for the command line."""
    before = _spelling
    spell(way)
    try:
        yield
    finally:
        spell(before)


def spelling() -> Spelling:
    """How options are written now; for worker processes, which do not inherit it wherever they are not forked."""
    return _spelling


def spell(way: Spelling) -> None:
    """Write options in this way from now on."""
    global _spelling  # noqa: PLW0603  (a process has one reader)
    _spelling = way


class DeployError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
        what: what was wrong, one sentence.
        where: the file, key or option that it concerns, if any.
        hint: what to do next.
    """

    def __init__(self, what: str, *, where: object | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [shown(self.what, keep=KEPT)]
        if self.where is not None:
            lines.append(f"  where: {shown(self.where)}")
        if self.hint:
            lines.append(f"  next:  {shown(self.hint, keep=KEPT)}")
        return "\n".join(lines)


class UsageError(DeployError):
    """Options that do not fit together, or name something that does not exist."""


class RecipeError(DeployError):
    """A recipe that cannot be read, or asks for something that does not exist."""


class CheckpointError(DeployError):
    """A checkpoint that cannot be read, is damaged, or is not an iLLaMA."""


class DataError(DeployError):
    """A data spec, folder, file or image that cannot be used."""


class ArtifactError(DeployError):
    """An artifact that exists already, is damaged, or cannot be written."""


class TrainingError(DeployError):
    """A training that stopped before its end; what it had is kept."""


class ExportError(DeployError):
    """The exported graph is not what the recipe promised."""


class RuntimeUnavailableError(DeployError):
    """A target that cannot be built or run on this machine."""
