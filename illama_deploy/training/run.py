"""A run's directory: `state.pt`, from which it goes on, `log.jsonl`, and `curves.png` at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..atomic import explain_oserror, new_file
from ..errors import ArtifactError, CheckpointError, UsageError

__all__ = ["RunDirectory", "headline"]

#: What held-out images are judged by first (percent), and what to call it.
HELD_OUT = {"top1": "top-1", "miou": "mIoU"}
SCHEMA = "illama-deploy/run/1"


def headline(figures: Mapping[str, Any]) -> str:
    """What a line says of held-out figures."""
    key = next(key for key in HELD_OUT if key in figures)
    return f"held-out {HELD_OUT[key]} {figures[key]:.2f} % of {figures['images']}"


class RunDirectory:
    """Opens a run, new or to be resumed.

    Args:
        identity: plain values that say what is trained: recipe, data, starting weights.
        resume: go on from `state.pt`, where there is one.
        force: with `resume`, although the identity differs; without, replace a run that is there.
        writes: whether this process writes files.

    Raises:
        ArtifactError: a run is there already (without `resume` or `force`), or it cannot be written.
        UsageError: the run that is there is another one; the differences are listed.
        CheckpointError: its state cannot be read.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], *, resume: bool, force: bool, writes: bool = True
    ) -> None:
        self.path, self.identity, self.writes = path, dict(identity), writes
        self.state_file, self.log_file = path / "state.pt", path / "log.jsonl"
        self.saved: dict[str, Any] | None = None
        if resume and self.state_file.exists():
            self.saved = self._read(force)
        elif writes and path.exists() and any(path.iterdir()) and not (resume or force):
            raise ArtifactError(
                "There is a run already, and it was left as it is.",
                where=path,
                hint="Go on with it (--resume), begin anew (--force), or name another place (--out).",
            )
        if not writes:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            if self.saved is None:
                self.state_file.unlink(missing_ok=True)
            kept = [record for record in self.records() if self._is_done(record)]
            with new_file(self.log_file, force=True) as aside:
                aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        except OSError as error:
            raise explain_oserror(error, path) from error

    def _is_done(self, record: Mapping[str, Any]) -> bool:
        """Whether a record belongs to what the state holds: an epoch's is written after its last state."""
        if self.saved is None:
            return False
        if "mean_loss" in record:
            return bool(record["epoch"] <= self.saved["epoch"])
        return bool(record["updates"] <= self.saved["updates"])

    def _read(self, force: bool) -> dict[str, Any]:
        try:
            saved: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
            then = json.loads(saved["identity"])
            if saved["schema"] != SCHEMA:
                raise ValueError(f"its schema is {saved['schema']!r}")
        except Exception as error:  # a damaged file can raise nearly anything from inside the reader
            raise CheckpointError(
                f"The run's state cannot be read ({str(error).splitlines()[0] if str(error) else 'cut short'}).",
                where=self.state_file,
                hint="It may be cut short or of another kind; copy it again, or begin anew with --force.",
            ) from error
        now = json.loads(json.dumps(self.identity))
        differences = [f"{key}: {then.get(key)} there, {now.get(key)} now"
                       for key in {**then, **now} if then.get(key) != now.get(key)]  # fmt: skip
        if differences and not force:
            raise UsageError(
                "The run that is there is another one:\n    " + "\n    ".join(differences),
                where=self.state_file,
                hint="Repeat the options that it was begun with, or go on all the same with --resume --force.",
            )
        return saved

    def save(self, **values: Any) -> None:
        """Replace the state, once the new one is whole on disk.

        Raises:
            ArtifactError: it cannot be written; the one before is intact.
        """
        if not self.writes:
            return
        try:
            with new_file(self.state_file, force=True) as aside, aside.open("wb") as file:
                torch.save({"schema": SCHEMA, "identity": json.dumps(self.identity), **values}, file)
                file.flush()
                os.fsync(file.fileno())
        except (ArtifactError, RuntimeError) as error:
            # torch's writer turns a failed write into a RuntimeError.
            what = error.what if isinstance(error, ArtifactError) else f"Writing failed: {str(error).splitlines()[0]}"
            kept = f"The state before is intact: {self.state_file}. " if self.state_file.exists() else ""
            hint = f"{kept}Free some space and go on with --resume."
            raise ArtifactError(what, where=self.state_file, hint=hint) from error

    def log(self, **record: Any) -> None:
        """Append a record; its `updates` says how many updates there were before it."""
        if self.writes:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records; a last line that was cut short is left out."""
        records = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.exists() else ():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def plot(self) -> None:
        """Draw loss, accuracy and mask over the epochs."""
        from matplotlib.figure import Figure

        if not self.writes:
            return
        records = self.records()
        judged = next((key for key in HELD_OUT if any(key in record for record in records)), "top1")
        figure = Figure(figsize=(7, 7), layout="constrained")
        axes = figure.subplots(3, sharex=True)
        for number, key, color in ((0, "loss", "0.7"), (0, "mean_loss", "C0"), (1, judged, "C0"), (2, "mask", "C0")):
            known = [record for record in records if key in record]
            axes[number].plot([record["epoch"] for record in known], [record[key] for record in known], color=color)
        for axis, name in zip(axes, ("training loss", f"held-out {HELD_OUT[judged]}, %", "mask open"), strict=True):
            axis.set_ylabel(name)
            axis.grid(alpha=0.3)
        axes[2].set_xlabel("epoch")
        with new_file(self.path / "curves.png", force=True) as aside:
            figure.savefig(aside, format="png", dpi=120)
