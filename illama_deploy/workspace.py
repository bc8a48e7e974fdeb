"""Where each step leaves its output for the next, and what was made there from what."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .atomic import new_directory, new_file, owned
from .errors import ArtifactError, DeployError, UsageError
from .hashing import sha256_file
from .hub_folder import is_hub_folder, read_hub_folder
from .memory import made_elsewhere, path_of, remember_made, remember_path
from .sealed import read_sealed, write_sealed
from .tables import typed

__all__ = ["DEFAULT_WORKSPACE", "RECORD", "Made", "Workspace", "identity", "need"]

DEFAULT_WORKSPACE = "illama-out"
#: Its name, where it is another.
VARIABLE = "ILLAMA_DEPLOY_WORKSPACE"
RECORD, SCHEMA = "workspace.json", "illama-deploy/workspace/1"
#: In a directory, the file whose hash is the artifact's.
TOLD_BY = ("manifest.json", "export.json", "report.json")
EARLIER = "earlier"
#: Steps that make a network, float or quantized.
NETWORKS = ("train", "quantize", "qat")


@dataclass(frozen=True)
class Made:
    """What a step made.

    Attributes:
        step: `train`, `quantize`, `qat`, `export` or `check`.
        artifact: its name in the workspace, such as `qat/quantized`; empty where it lies elsewhere.
        sha256: its hash, see `identity`.
        input: hash of the artifact that it was made from.
        input_at: that one's name in the workspace; empty where it lies elsewhere.
        checkpoint: hash of the float checkpoint at the beginning, and its file's name.
        opened: how that one was opened: `heads`, `image_size`, `ema`, and more where it was given.
        format: of the network, such as `W4A8`.
        when: ISO 8601 in UTC; a later entry is never earlier.
    """

    step: str
    artifact: str
    sha256: str
    format: str
    input: str | None = None
    input_at: str = ""
    checkpoint: str | None = None
    checkpoint_name: str = ""
    opened: dict[str, str | int | bool | tuple[int, int] | None] = field(default_factory=dict)
    when: str = ""


def identity(path: Path) -> str | None:
    """The hash that an artifact goes by: of a file, or of what tells about a directory; None where there is none."""
    if path.is_file():
        return sha256_file(path)
    told = next((path / name for name in TOLD_BY if (path / name).is_file()), None)
    if told is None and is_hub_folder(path):
        try:
            return read_hub_folder(path).sha256()
        except DeployError:
            return None
    return None if told is None else sha256_file(told)


def _default() -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT_WORKSPACE)


@dataclass(frozen=True)
class Workspace:
    """One folder with a place for each step, and a record of what they made (`workspace.json`)."""

    root: Path = field(default_factory=_default)

    @property
    def trained(self) -> Path:
        """What `train` writes."""
        return self.root / "train"

    @property
    def qat(self) -> Path:
        """What `qat` writes."""
        return self.root / "qat"

    @property
    def quantized(self) -> Path:
        """What `quantize` writes."""
        return self.root / "quantized"

    @property
    def onnx(self) -> Path:
        """What `export --onnx` writes."""
        return self.root / "onnx"

    @property
    def report(self) -> Path:
        """What `check` writes."""
        return self.root / "report"

    def made(self) -> Iterator[tuple[Made, Path]]:
        """What was made here, or by a command that named this workspace, the newest first; what is no longer where it
        was, or is another now, is left out.

        Raises:
            ArtifactError: the record cannot be used.
        """
        for made in sorted((*self._recorded(), *self._elsewhere()), key=lambda one: one.when, reverse=True):
            path = self.root / made.artifact if made.artifact else path_of(made.sha256)
            if path is not None and identity(path) == made.sha256:
                yield made, path

    def newest(self, *steps: str) -> tuple[Made, Path] | None:
        """The newest that one of these steps made."""
        return next((found for found in self.made() if found[0].step in steps), None)

    def stale(self, made: Made) -> bool:
        """Whether what it was made from has been replaced since."""
        if not made.input_at:
            return False
        now = identity(self.root / made.input_at)
        return now is not None and now != made.input

    @staticmethod
    def of(directory: Path) -> tuple[Workspace, Made] | None:
        """The workspace whose record has a directory as it is now, and what the record says of it."""
        place = Workspace(directory.absolute().parent)
        if not (place.root / RECORD).is_file():
            return None
        return next(((place, one) for one in place._recorded() if one.artifact == directory.absolute().name), None)

    def output(
        self, given: str | Path | None, usual: Path, *, force: bool, inputs: Any = (), keep: bool = True
    ) -> AbstractContextManager[Path]:
        """Make a step's output directory, see `new_directory`.

        In its usual place, where the user named no other, it replaces what that step left there before: that is what
        running the step again means. What was there is kept under `earlier`, unless it is the same, or `keep` is off.
        """
        out = Path(given) if given is not None else usual
        again = given is None and not force and self._is_ours(out)
        if not again:
            return new_directory(out, force=force, inputs=inputs)
        before = identity(out) or ""

        def where(new: Path) -> Path | None:
            return self.root / EARLIER / f"{out.name}-{before[:8]}" if keep and identity(new) != before else None

        return new_directory(out, force=True, inputs=inputs, keep=where)

    def _is_ours(self, out: Path) -> bool:
        if not out.exists():
            return False
        name = self._name(out)
        return any(one.artifact == name and one.sha256 == identity(out) for one in self._recorded())

    def record(self, step: str, path: Path, *, named: bool = False, source: Path | None = None, **about: Any) -> None:
        """Write down what a step made.

        Args:
            named: this workspace was named for it (or is the usual one of a command), so that it is remembered also
                where it lies elsewhere.
            source: the artifact that it was made from.
            about: fields of `Made`.
        """
        sha256, name = identity(path), self._name(path)
        if sha256 is None:
            return
        remember_path(sha256, path)
        if source is not None:
            about |= {"input": identity(source), "input_at": self._name(source)}
        if not (name or named):
            return
        with self._alone():
            try:
                known = list(self._recorded())
            except ArtifactError:
                known = []  # it was damaged; what it said is lost, and the work just done is not
            now = datetime.now(UTC)
            for one in (*known, *self._elsewhere()):
                then = datetime.fromisoformat(one.when)
                now = max(now, then + timedelta(microseconds=1))
            made = Made(step, name, sha256, when=now.isoformat(timespec="microseconds"), **about)
            if not name:
                remember_made(self.root, _plain(made))
                return
            kept = [one for one in known if one.artifact != name]
            with new_file(self.root / RECORD, force=True) as file:
                write_sealed(file, {"schema": SCHEMA, "made": [_plain(one) for one in (*kept, made)]})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other step writes the record."""
        for _ in range(200):
            try:
                with owned(self.root / RECORD) if self.root.is_dir() else _nothing():
                    yield
                    return
            except ArtifactError as error:
                if "Another run" not in error.what:
                    raise
            time.sleep(0.05)
        raise ArtifactError("Another run keeps the workspace's record.", where=self.root, hint="End it.")

    def _name(self, path: Path) -> str:
        """The name of a path in the workspace; empty where it lies elsewhere."""
        root, path = self.root.absolute(), path.absolute()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else ""

    def _recorded(self) -> list[Made]:
        path = self.root / RECORD
        if not path.exists():
            return []
        again = "Remove it, and name what a step is to take."
        content = read_sealed(path, SCHEMA, what="The workspace's record", again=again)
        try:
            made = typed(list[Made], content.get("made"))
            for one in made:
                datetime.fromisoformat(one.when)
                parts = Path(one.artifact).parts
                if not parts or ".." in parts or Path(one.artifact).is_absolute() or not self._inside(one.artifact):
                    raise ValueError(f"{one.artifact!r} is no place in it")
            return made
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"The workspace's record cannot be used: {error}.", where=path, hint=again) from error

    def _inside(self, name: str) -> bool:
        return (self.root / name).resolve().is_relative_to(self.root.resolve())

    def _elsewhere(self) -> list[Made]:
        try:
            return typed(list[Made], made_elsewhere(self.root))
        except ValueError:
            return []


def need(path: Path, made_by: str) -> Path:
    """Return `path`, or say which step makes it.

    Raises:
        UsageError: it isn't there.
    """
    if not path.exists():
        raise UsageError(
            "Nothing was named, and the step before left nothing here.",
            where=path,
            hint=f"Run 'illama-deploy {made_by}' first, or name what to take.",
        )
    return path


def _plain(made: Made) -> Mapping[str, Any]:
    return asdict(made)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
