"""What a step takes where nothing is named: the newest of the workspace that it can use, said in its first line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoint import EMBEDDED
from ...data import data_paths
from ...errors import ArtifactError, UsageError
from ...memory import path_of
from ...target_names import LINES
from ...targets import TARGETS
from ...workspace import NETWORKS, Made, Workspace, identity, need
from .load_checkpoint import embedded_sha256

__all__ = [
    "Chosen",
    "choose_any",
    "choose_checkpoint",
    "choose_exports",
    "choose_network",
    "choose_start",
    "exported_files",
    "refuse_stale",
]


@dataclass(frozen=True)
class Chosen:
    """What a step takes.

    Attributes:
        path: of the artifact, or the embedded network's name.
        why: a line for the user: which one, of which checkpoint, and why.
        opened: how the float checkpoint was opened before: `heads`, `image_size`, `ema`, and more where it was given.
    """

    path: Path | str
    why: str
    opened: Mapping[str, Any] = field(default_factory=dict)

    def options(self, **given: Any) -> dict[str, Any]:
        """What is given, and where nothing is, what was given before."""
        return {key: self.opened.get(key, x) if x is None or x is False else x for key, x in given.items()}


def choose_checkpoint(place: Workspace) -> Chosen:
    """The float checkpoint: the newest that was trained here, or that a network here was made from.

    Raises:
        UsageError: that one cannot be found.
    """
    found = place.newest(*NETWORKS)
    if found is None:
        return Chosen(EMBEDDED, f"takes the embedded {EMBEDDED} network, since nothing was made in {place.root} yet")
    made, path = found
    if made.step == "train":
        return Chosen(path, f"takes {path}, trained {_when(made)}: the newest network of {place.root}")
    origin = "" if made.checkpoint is None else made.checkpoint
    if origin == embedded_sha256():
        why = f"takes the embedded {EMBEDDED} network, which {_name(made, path)} was made from"
        return Chosen(EMBEDDED, why, made.opened)
    source = path_of(origin)
    if source is None or identity(source) != origin:
        raise UsageError(
            f"Nothing was named. The newest network here, {_name(made, path)}, was made from {made.checkpoint_name!r}, "
            "and that file is no longer where it was.",
            where=place.root,
            hint="Name the float checkpoint.",
        )
    why = f"takes {source}, which the newest network here ({_name(made, path)}) was made from"
    return Chosen(source, why, made.opened)


def choose_start(place: Workspace, *, quantizes: bool) -> Chosen:
    """What `qat` starts from: the newest that `quantize` or `train` made; a float checkpoint, where it is to be
    quantized in another way first.

    Raises:
        UsageError: as in `choose_checkpoint`.
    """
    found = None if quantizes else place.newest("quantize", "train")
    if found is None or found[0].step == "train":
        return choose_checkpoint(place)
    made, path = found
    return Chosen(path, f"takes {path} ({_about(made)}): the newest quantized network of {place.root}")


def choose_network(place: Workspace) -> Chosen:
    """What `export` takes: the newest network, quantized or float.

    Raises:
        UsageError: there is none.
    """
    found = place.newest(*NETWORKS)
    if found is None:
        need(place.quantized, "quantize")
        why = f"takes {place.quantized}, what stands there; how it came there is not on record"
        return Chosen(place.quantized, why)
    made, path = found
    return Chosen(path, f"takes {path} ({_about(made)}): the newest network of {place.root}")


def choose_exports(place: Workspace) -> tuple[list[Path], str]:
    """What `check` takes: every export of the newest network, and a line that says so.

    Raises:
        UsageError: it was not exported, or only an older one was; or nothing was made at all.
    """
    exports = [(made, path) for made, path in place.made() if made.step == "export"]
    newest = place.newest(*NETWORKS)
    if newest is None:
        left = [place.root / target.folder for target in TARGETS.values()]
        if standing := [path for path in left if (path / "export.json").is_file()]:
            return standing, f"takes {_list(standing)}, what stands there; how it came there is not on record"
        raise UsageError(
            "Nothing was named, and nothing was made here yet.",
            where=place.root,
            hint="Run 'illama-deploy quantize' and 'illama-deploy export --onnx' first, or name what to take.",
        )
    made, path = newest
    fresh = [directory for one, directory in exports if one.input == made.sha256]
    if fresh and made.step == "train":
        raise UsageError(
            f"The newest network here, {path} ({_about(made)}), was exported in float alone, so there is nothing to "
            "compare it with.",
            where=place.root,
            hint="Run 'illama-deploy quantize' and 'illama-deploy export --onnx' first, or name what to take.",
        )
    if fresh:
        return fresh, f"takes {_list(fresh)}, made from {path} ({_about(made)}), the newest network of {place.root}"
    if made.step == "train":
        hint = "Run 'illama-deploy quantize' and 'illama-deploy export --onnx' first, or name what to take."
        what = f"The newest network here is {path} ({_about(made)}), which was neither quantized nor exported."
    else:
        flag = "--onnx" if not exports else _flag(exports[0][1])
        hint = f"Run 'illama-deploy export {flag}' first, or name what to take."
        what = f"The newest network here, {path} ({_about(made)}), was not exported"
        what += f"; {exports[0][1]} is of an older one." if exports else "."
    raise UsageError(what, where=place.root, hint=hint)


def choose_any(place: Workspace, *steps: str) -> Chosen:
    """What `evaluate`, `bench` and `inspect` take: the newest artifact, of these steps or of all that make one.

    Raises:
        UsageError: there is none.
    """
    found = place.newest(*(steps or (*NETWORKS, "export")))
    if found is None:
        raise UsageError(
            "Nothing was named, and nothing was made here yet.", where=place.root, hint="Name an artifact."
        )
    made, path = found
    if place.stale(made):
        refuse_stale(path)
    return Chosen(path, f"takes {path} ({_about(made)}): the newest of {place.root}")


def exported_files(directory: Path) -> list[Path]:
    """The files of an export that run, the float one first: those that were built where there are any."""
    built = {target.runs_suffix: target.runs_suffix == target.suffix for target in TARGETS.values()}
    for suffix in sorted(built, key=lambda suffix: built[suffix]):
        files = [directory / f"model.float{suffix}", directory / f"model{suffix}"]
        if found := [path for path in files if path.is_file()]:
            return found
    return [directory]


def refuse_stale(*artifacts: object) -> None:
    """Refuse an export whose quantized checkpoint has been replaced since, so that nobody takes it for the new one.

    Raises:
        ArtifactError: naming it, and what to do.
    """
    for artifact in artifacts:
        if not isinstance(artifact, str | Path):
            continue
        path = Path(artifact)
        directory = path if path.is_dir() else path.parent
        found = Workspace.of(directory) if directory.is_dir() else None
        if found is None:
            continue
        place, made = found
        if made.step == "export" and place.stale(made):
            raise ArtifactError(
                f"It was exported from {made.input_at} as that was before ({made.format}), and that was replaced.",
                where=path,
                hint=f"Export it again: illama-deploy export {_flag(directory)}. To measure it all the same, "
                "copy the folder elsewhere.",
            )


def _flag(directory: Path) -> str:
    """The option of `export` that makes such a directory."""
    name = next((name for name, target in TARGETS.items() if target.folder == directory.name), next(iter(TARGETS)))
    lines = {line.flag: line.name for line in reversed(LINES)}
    return next((flag for flag, first in lines.items() if first == name and flag), f"--target {name}")


def _list(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _name(made: Made, path: Path) -> str:
    return f"{path}, {made.format}"


def _about(made: Made) -> str:
    of = f" of {made.checkpoint_name}" if made.checkpoint_name else ""
    return f"{made.format}{of}, made by {made.step} {_when(made)}"


def _when(made: Made) -> str:
    return made.when[:19].replace("T", " ") + " UTC"


def paths_of(*named: object) -> list[str | Path]:
    """The paths in what a user named: files, folders, and those of data specs. No output may replace them."""
    paths: list[str | Path] = []
    for one in named:
        if isinstance(one, str | Path) and str(one):
            paths += [one, *data_paths(one)]
    return paths
