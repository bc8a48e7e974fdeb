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

Each says what was wrong, where, and what to do next.
"""

from __future__ import annotations

from .names import shown

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "DeployError",
    "ExportError",
    "RecipeError",
    "RuntimeUnavailableError",
    "TrainingError",
    "UsageError",
]

#: Control characters that a message may hold.
KEPT = "\n\t"


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
