"""A run's directory: `state.pt`, from which it goes on, `log.jsonl`, and `curves.png` at its end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ..atomic import explain_oserror, new_file, owned
from ..errors import ArtifactError, CheckpointError, UsageError, parameter
from ..paths import require_utf8
from ..sealed import parse_json
from ..tables import typed
from ..task_names import LINES
from .state import Means, Position, State, read_state, write_state

__all__ = ["RunDirectory", "headline"]

#: What held-out images are judged by first (percent), and what to call it.
HELD_OUT = {line.figure: line.title for line in LINES}
#: Bytes of a line of the log, at most. A record holds figures and lists of figures; null where one is not finite.
LINE = 2**20
Record = dict[str, int | float | list[int | float | None] | None]


def headline(figures: Mapping[str, Any]) -> str:
    """What a line says of held-out figures."""
    key = next(key for key in HELD_OUT if key in figures)
    return f"held-out {HELD_OUT[key]} {figures[key]:.2f} % of {figures['images']}"


class RunDirectory:
    """A run's directory, new or to be resumed. It is a context, within which no other process writes there.

    Args:
        identity: plain values that say what is trained: recipe, data, starting weights.
        resume: go on from `state.pt`, where there is one.
        force: with `resume`, go on although the identity differs; without it, replace a run that is there.
        writes: whether this process writes files.

    Raises:
        ArtifactError: a run is there already (without `resume` or `force`), another process is at it, its log is
            damaged, it cannot be written, or its path is not UTF-8.
        UsageError: the run that is there is another one; the differences are listed.
        CheckpointError: its state cannot be read.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], *, resume: bool, force: bool, writes: bool = True
    ) -> None:
        self.path, self.identity, self.writes = path, dict(identity), writes
        self.state_file, self.log_file = path / "state.pt", path / "log.jsonl"
        #: What to go on from, and which keys of the identity have changed since.
        self.saved: State | None = None
        self.changed: list[str] = []
        self._held = ExitStack()
        require_utf8(path)
        with ExitStack() as opening:
            if writes:
                place = Path(os.path.realpath(path))  # one lock, whichever link leads there
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise explain_oserror(error, path) from error
                opening.enter_context(owned(place))
            self._open(resume, force)
            self._held = opening.pop_all()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def _open(self, resume: bool, force: bool) -> None:
        path = self.path
        if resume and self.state_file.exists():
            self.saved = self._read(force)
        elif self.writes and path.exists() and any(path.iterdir()) and not (resume or force):
            raise ArtifactError(
                "There is a run already, and it was left as it is.",
                where=path,
                hint=f"Go on with it ({parameter(resume=True)}), begin anew ({parameter(force=True)}), or name another "
                f"place ({parameter('out')}).",
            )
        if not self.writes:
            return
        kept = [] if self.saved is None else [record for record in self.records() if self._is_done(record, self.saved)]
        try:
            path.mkdir(parents=True, exist_ok=True)
            if self.saved is None:
                self.state_file.unlink(missing_ok=True)
            with new_file(self.log_file, force=True) as aside:
                aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        except OSError as error:
            raise explain_oserror(error, path) from error

    @staticmethod
    def _is_done(record: Mapping[str, Any], saved: State) -> bool:
        """Whether a record belongs to what the state holds: an epoch's is written after its last state."""
        if "mean_loss" in record:
            return bool(record["epoch"] <= saved.position.epoch)
        return bool(record["updates"] <= saved.position.updates)

    def _read(self, force: bool) -> State:
        try:
            saved = read_state(self.state_file)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"The run's state cannot be read ({error}).",
                where=self.state_file,
                hint=f"Copy it again, or begin anew with {parameter(force=True)}.",
            ) from error
        then, now = saved.identity, json.loads(json.dumps(self.identity))
        self.changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if self.changed and not force:
            differences = [f"{key}: {then.get(key)} there, {now.get(key)} now" for key in self.changed]
            raise UsageError(
                "The run that is there is another one:\n    " + "\n    ".join(differences),
                where=self.state_file,
                hint="Repeat the options that it was begun with, or go on all the same with "
                f"{parameter(resume=True, force=True)}.",
            )
        return saved

    def save(self, position: Position, means: Means, parts: Mapping[str, Any]) -> None:
        """Replace the state, once the new one is whole on disk.

        Raises:
            ArtifactError: it cannot be written; the one before is intact.
        """
        if not self.writes:
            return
        about = {"identity": json.dumps(self.identity), "means": asdict(means), "position": asdict(position)}
        try:
            with new_file(self.state_file, force=True) as aside:
                write_state(aside, {**about, "parts": dict(parts)})
        except (ArtifactError, RuntimeError) as error:
            # torch's writer turns a failed write into a RuntimeError.
            what = error.what if isinstance(error, ArtifactError) else f"Writing failed: {str(error).splitlines()[0]}"
            kept = f"The state before is intact: {self.state_file}. " if self.state_file.exists() else ""
            hint = f"{kept}Free some space and go on with {parameter(resume=True)}."
            raise ArtifactError(what, where=self.state_file, hint=hint) from error

    def log(self, **record: Any) -> None:
        """Append a record; its `updates` says how many updates there were before it."""
        if self.writes:
            known = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in record.items()}
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known, allow_nan=False) + "\n")

    def records(self) -> list[Record]:
        """All records; a last line that was cut short is left out.

        Raises:
            ArtifactError: a line is no record.
        """
        return list(self._records()) if self.log_file.exists() else []

    def _records(self) -> Iterator[Record]:
        with self.log_file.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _record(line)
                except ValueError as error:
                    if not line.endswith(b"\n"):
                        return
                    raise ArtifactError(
                        f"Line {number} of the run's log is no record ({error}).",
                        where=self.log_file,
                        hint="The state does not need the log: mend or remove that line, and go on.",
                    ) from error

    def plot(self) -> None:
        """Draw loss, accuracy and mask over the epochs."""
        from matplotlib.figure import Figure

        if not self.writes:
            return
        records = self.records()
        judged = next((key for key in HELD_OUT if any(key in record for record in records)), LINES[0].figure)
        figure = Figure(figsize=(7, 7), layout="constrained")
        axes = figure.subplots(3, sharex=True)
        for number, key, color in ((0, "loss", "0.7"), (0, "mean_loss", "C0"), (1, judged, "C0"), (2, "mask", "C0")):
            known = [record for record in records if record.get(key) is not None]
            axes[number].plot([record["epoch"] for record in known], [record[key] for record in known], color=color)
        for axis, name in zip(axes, ("training loss", f"held-out {HELD_OUT[judged]}, %", "mask open"), strict=True):
            axis.set_ylabel(name)
            axis.grid(alpha=0.3)
        axes[2].set_xlabel("epoch")
        with new_file(self.path / "curves.png", force=True) as aside:
            figure.savefig(aside, format="png", dpi=120)


def _record(line: bytes) -> Record:
    """A line of the log: of an update, or of an epoch's end.

    Raises:
        ValueError: it is neither.
    """
    if len(line) > LINE:
        raise ValueError("it is longer than any that is written")
    record = typed(Record, parse_json(line))
    for key in ("updates", "epoch", "mean_loss" if "mean_loss" in record else "loss"):
        if not isinstance(record.get(key), int | float):
            raise ValueError(f"it has no {key}")
    return record
