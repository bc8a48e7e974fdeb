"""Who takes part in a check: candidates with the baselines that each is timed against, target by target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, UsageError, parameter
from ...export.record import RECORD, read_record, recorded_proof
from ...hashing import sha256_file
from ...quant import load_quantized
from ...quant.artifact import MANIFEST
from ...runtime import ArtifactInfo, Runtime, Unavailable
from ...targets import ALL, TARGETS, Target, find_target
from ...targets.open import exported_file, open_artifact, open_if_available
from ...workspace import Workspace, need
from ..export import export
from .inputs import choose_exports, choose_network
from .load_checkpoint import checkpoint_path

__all__ = ["Group", "Member", "open_participants"]


@dataclass(frozen=True)
class Member:
    """One artifact that takes part.

    Attributes:
        proof: which kernels it runs on, from the record of its export.
    """

    artifact: Runtime | Unavailable
    proof: dict[str, Any] | None = None

    @property
    def target(self) -> str:
        """Name of the target that it runs in, or was made for; of a runtime of somebody's own, its backend."""
        return self.artifact.target or self.artifact.info.backend


@dataclass(frozen=True)
class Group:
    """Artifacts that are timed in the same rounds; the most precise baseline first."""

    baselines: tuple[Member, ...]
    candidates: tuple[Member, ...]

    def __iter__(self) -> Iterator[Member]:
        yield from (*self.baselines, *self.candidates)

    def timed(self) -> list[Member]:
        """Those whose speed says something: no candidate that simulates, nor the baselines of such alone."""
        candidates = [member for member in self.candidates if member.artifact.info.simulated is None]
        return [*self.baselines, *candidates] if candidates or not self.candidates else []


def open_participants(
    candidates: Sequence[str | Path | Runtime],
    baseline: str | Path | Runtime | None,
    targets: Sequence[str],
    workspace: Workspace,
    options: dict[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> list[Group]:
    """Open everything that takes part.

    Where nothing is named, every export of the workspace's newest network takes part; where only targets are, those.
    Candidates with a baseline of their own name form one group. A quantized checkpoint takes part as its export for
    each of `targets`, with the float file beside that as baseline; an export that does not exist yet is made beside it
    (`_place`). So does the directory of an export.

    Args:
        targets: names of targets; of files, the one that runs them.
        options: of `open_artifact`.
        say: gets a line that says what is taken, where nothing was named.

    Raises:
        DeployError: bad input; one that cannot run on this machine is `Unavailable` instead, unless it is the baseline
            that the user named.
    """
    chosen = [find_target(name) for name in targets]
    if not candidates:
        return _from_workspace(baseline, chosen, workspace, options, say)
    quantized = [Path(c) for c in candidates if isinstance(c, str | Path) and (Path(c) / MANIFEST).is_file()]
    if chosen and len(quantized) == len(candidates):
        return [
            _quantized_group(path, path.absolute().parent, target, baseline, options)
            for target in sorted(chosen, key=lambda target: target.name not in TARGETS)
            for path in quantized
        ]
    directories = [Path(c) for c in candidates if isinstance(c, str | Path) and (Path(c) / RECORD).is_file()]
    if baseline is None and len(directories) == len(candidates):
        groups = []
        for path in directories:
            target = _target_of_record(path)
            if chosen and target not in chosen:
                raise UsageError(
                    f"It was exported for {target.name}, which {parameter('targets')} leaves out.",
                    where=path,
                    hint=f"Leave {parameter('targets')} out.",
                )
            groups.append(_export_group(path, target, None, options))
        return groups
    if len(chosen) > 1:
        raise UsageError(
            f"{parameter(targets=list(targets))} chooses among the exports of a quantized checkpoint; "
            "a file runs on what it was written for.",
            hint=f"Name the quantized directory, or leave {parameter('targets')} out.",
        )
    return [_named(candidates, baseline, workspace, {**options, "backend": next(iter(targets), None)})]


def _target_of_record(directory: Path) -> Target:
    """The target of an export.

    Raises:
        ArtifactError: there is none of that name.
    """
    name = read_record(directory).target
    if name not in TARGETS:
        raise ArtifactError(
            f"It was exported for {name!r}, and there is no such target here.",
            where=directory,
            hint="Another version may know it; export it again.",
        )
    return TARGETS[name]


def _from_workspace(
    baseline: str | Path | Runtime | None,
    targets: Sequence[Target],
    workspace: Workspace,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> list[Group]:
    """The exports of the workspace's newest network; those for the named targets are made where they are not there."""
    if not targets:
        directories, why = choose_exports(workspace)
        say(why)
        return [_export_group(path, _target_of_record(path), baseline, options) for path in directories]
    network = choose_network(workspace)
    say(network.why)
    quantized = Path(network.path)
    if not (quantized / MANIFEST).is_file():
        raise UsageError(
            "The newest network here is a float one, so there is nothing to compare it with.",
            where=quantized,
            hint="Run 'illama-deploy quantize' first, or name what to take.",
        )
    return [_quantized_group(quantized, workspace.root, target, baseline, options, workspace) for target in targets]


def _quantized_group(
    quantized: Path,
    root: Path,
    target: Target,
    baseline: str | Path | Runtime | None,
    options: dict[str, Any],
    workspace: Workspace | None = None,
) -> Group:
    """A quantized checkpoint in a target; where that takes no files, against the float checkpoint it was made of."""
    if target.name in TARGETS:
        return _target_group(quantized, root, target, baseline, options, workspace)
    first = baseline if baseline is not None else checkpoint_path(load_quantized(quantized))
    as_it_is = {**options, "backend": target.name}
    return Group(_baselines(first, as_it_is, demanded=True), (_member(quantized, as_it_is),))


def _target_group(
    quantized: Path,
    root: Path,
    target: Target,
    baseline: str | Path | Runtime | None,
    options: dict[str, Any],
    workspace: Workspace | None = None,
) -> Group:
    """The export of a quantized checkpoint for a target; made now where it is not there.

    Args:
        workspace: where it is the usual one of that, and one of an older network is made anew.
    """
    manifest = sha256_file(quantized / MANIFEST)
    directory = root / target.folder if workspace else _place(quantized, root, target.folder, manifest)
    there = (directory / RECORD).is_file()
    if not there or (workspace is not None and read_record(directory).manifest_sha256 != manifest):
        try:
            export(quantized, target=target.name, out=directory if workspace is None else None, workspace=workspace)
        except UsageError as error:  # the target has no kernel for a format
            what = json.loads((quantized / MANIFEST).read_text(encoding="utf-8"))["format"]
            info = ArtifactInfo(f"{quantized} for {target.name}", what, target.name, "none", 0, "", manifest)
            return Group((), (Member(Unavailable(info, error.what.rstrip("."), None, target.name)),))
    if read_record(directory).manifest_sha256 != manifest:
        raise ArtifactError(
            f"The export is not of {quantized} (its manifest differs).",
            where=directory,
            hint=f"Export it again, with {parameter(force=True)}.",
        )
    return _export_group(directory, target, baseline, options)


def _place(quantized: Path, root: Path, folder: str, manifest: str) -> Path:
    """Where the export of a quantized checkpoint lies, or is to be made.

    It is called as `export` calls it where that holds this one's, or where the checkpoint is called as `quantize` calls
    it. Several may lie side by side under names of their own, and so do their exports: `q4-onnx` of `q4`.
    """
    plain = root / folder
    if quantized.absolute().name == Workspace().quantized.name:
        return plain
    if (plain / RECORD).is_file():
        with suppress(ArtifactError):
            if read_record(plain).manifest_sha256 == manifest:
                return plain
    return root / f"{quantized.absolute().name}-{folder}"


def _export_group(
    directory: Path,
    target: Target,
    baseline: str | Path | Runtime | None,
    options: dict[str, Any],
) -> Group:
    """What lies in the directory of an export: what runs of the quantized file against that of the float one."""
    model, other = directory / target.model, directory / target.float_model
    record = read_record(directory, files=True) if (directory / RECORD).is_file() else None
    proof = None if record is None or record.proof is None else record.proof.to_dict()
    if not (directory / f"model{target.suffix}").is_file():
        raise UsageError(
            "It holds the float file alone, and a check compares a quantized one with it.",
            where=directory,
            hint="Quantize the checkpoint and export that; 'evaluate' and 'bench' take the float file.",
        )
    if not model.is_file():
        why = target.states()[0].cannot_build or "export it again"
        unbuilt = Unavailable(
            target.describe_unbuilt(directory), f"no {model.suffix[1:]} was built: {why}", None, target.name
        )
        return Group((), (Member(unbuilt),))
    candidate = Member(open_if_available(model, **options), proof)
    if baseline is not None:
        return Group(_baselines(baseline, options, demanded=True), (candidate,))
    need(other, "export")
    return Group(_baselines(other, options, demanded=isinstance(candidate.artifact, Runtime)), (candidate,))


def _named(
    candidates: Sequence[str | Path | Runtime],
    baseline: str | Path | Runtime | None,
    workspace: Workspace,
    options: dict[str, Any],
) -> Group:
    """Artifacts as the user named them."""
    first = baseline if baseline is not None else _float_beside(candidates, workspace)
    baselines = _baselines(first, options, demanded=True)
    return Group(baselines, tuple(_member(candidate, options) for candidate in candidates))


def _float_beside(candidates: Sequence[str | Path | Runtime], workspace: Workspace) -> Path:
    """The float file of the same export as a candidate; of a quantized directory, of its export in the workspace.

    Raises:
        UsageError: there is none.
    """
    for candidate in candidates:
        if isinstance(candidate, Runtime):
            continue
        path = Path(candidate)
        beside = path.parent / f"model.float{path.suffix}"
        if path.is_file() and beside.is_file() and beside != path:
            return beside
        if not (path / MANIFEST).is_file():
            continue
        for target in TARGETS.values():
            exported = workspace.root / target.folder
            if not (exported / RECORD).is_file() or not (exported / target.float_model).is_file():
                continue
            if read_record(exported).manifest_sha256 == sha256_file(path / MANIFEST):
                return exported / target.float_model
    raise UsageError(
        "No baseline is named, and no float file of the same export lies beside a candidate.",
        where=", ".join(str(one) for one in candidates if not isinstance(one, Runtime)) or None,
        hint=f"Name it with {parameter('baseline')}, or export without {parameter(float=False)}.",
    )


def _member(artifact: str | Path | Runtime, options: dict[str, Any]) -> Member:
    opened = artifact if isinstance(artifact, Runtime) else open_if_available(artifact, **options)
    return Member(opened, _proof_of(opened))


def _proof_of(artifact: Runtime | Unavailable) -> dict[str, Any] | None:
    """What was proven of a file when it was exported, if its record lies beside it and is of this file."""
    path = Path(artifact.info.name)
    file = exported_file(path) if path.is_dir() else path
    return None if file is None else recorded_proof(file, artifact.info.sha256)


def _baselines(baseline: str | Path | Runtime, options: dict[str, Any], *, demanded: bool) -> tuple[Member, ...]:
    """A float artifact in every precision that its runtime has for it: first float32, then half.

    Args:
        demanded: whether one that cannot run is an error.
    """
    if isinstance(baseline, Runtime):
        return (Member(baseline),)
    opened = open_artifact(baseline, **options) if demanded else open_if_available(baseline, **options)
    if not isinstance(opened, Runtime):
        return (Member(opened),)
    all_of_it = ALL[opened.target].baselines(
        opened, lambda precision: open_artifact(baseline, **{**options, "precision": precision})
    )
    return tuple(map(Member, all_of_it))
