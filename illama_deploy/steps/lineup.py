"""Who takes part in a check: candidates with the baselines that each is timed against, target by target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, RuntimeUnavailableError, UsageError
from ..export.record import RECORD, read_record
from ..export.targets import TARGETS
from ..hashing import sha256_file
from ..quant import load_quantized
from ..quant.artifact import MANIFEST
from ..runtime import ArtifactInfo, Runtime, Unavailable, open_artifact, open_if_available
from ..workspace import Workspace
from .export import export
from .inputs import choose_exports, choose_network
from .load_checkpoint import checkpoint_path

__all__ = ["TARGET_NAMES", "Group", "Member", "line_up"]

#: What `--target` says: the target of an export, and what lies in its folder.
TARGET_NAMES = {"cpu": "onnx-cpu", "cuda": "onnx-cuda", "trt": "tensorrt", "openvino": "openvino"}


@dataclass(frozen=True)
class Member:
    """One artifact that takes part.

    Attributes:
        target: what it was made for, such as `openvino`; `torch` for checkpoints.
        proof: which kernels it runs on, from the record of its export.
    """

    artifact: Runtime | Unavailable
    target: str
    proof: dict[str, Any] | None = None


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


def line_up(
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
        targets: names in `TARGET_NAMES`; `torch` and `cpu` choose what runs the files that are named.
        options: of `open_artifact`.
        say: gets a line that says what is taken, where nothing was named.

    Raises:
        DeployError: bad input; one that cannot run on this machine is `Unavailable` instead, unless it is the baseline
            that the user named.
    """
    if unknown := [name for name in targets if name not in (*TARGET_NAMES, "torch")]:
        raise UsageError(
            f"There is no target {unknown[0]!r} to choose here.",
            hint=f"Use some of: {', '.join((*TARGET_NAMES, 'torch'))}.",
        )
    exports = [name for name in targets if name != "torch"]
    if not candidates:
        return _from_workspace(baseline, targets, workspace, options, say)
    quantized = [c for c in candidates if isinstance(c, str | Path) and (Path(c) / MANIFEST).is_file()]
    if targets and len(quantized) == len(candidates):
        return [
            _target_group(Path(path), Path(path).absolute().parent, TARGET_NAMES[name], baseline, options)
            for path in quantized
            for name in exports
        ] + ([_torch_group(Path(path), baseline, options) for path in quantized] if "torch" in targets else [])
    directories = [c for c in candidates if isinstance(c, str | Path) and (Path(c) / RECORD).is_file()]
    if baseline is None and len(directories) == len(candidates):
        groups = []
        for path in map(Path, directories):
            target = read_record(path).target
            if exports and target not in {TARGET_NAMES[name] for name in exports}:
                raise UsageError(
                    f"It was exported for {target}, which --target leaves out.", where=path, hint="Leave --target out."
                )
            groups.append(_export_group(path, target, None, options))
        return groups
    if len(targets) > 1 or not set(targets) <= {"torch", "cpu"}:
        raise UsageError(
            f"--target {' --target '.join(targets)} chooses among the exports of a quantized checkpoint; "
            "a file runs on what it was written for.",
            hint="Name the quantized directory, or leave --target out.",
        )
    return [_named(candidates, baseline, workspace, {**options, "backend": next(iter(targets), None)})]


def _from_workspace(
    baseline: str | Path | Runtime | None,
    targets: Sequence[str],
    workspace: Workspace,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> list[Group]:
    """The exports of the workspace's newest network; those for the named targets are made where they are not there."""
    if not targets:
        directories, why = choose_exports(workspace)
        say(why)
        return [_export_group(path, read_record(path).target, baseline, options) for path in directories]
    network = choose_network(workspace)
    say(network.why)
    quantized = Path(network.path)
    if not (quantized / MANIFEST).is_file():
        raise UsageError(
            "The newest network here is a float one, so there is nothing to compare it with.",
            where=quantized,
            hint="Run 'illama-deploy quantize' first, or name what to take.",
        )
    return [
        _torch_group(quantized, baseline, options)
        if name == "torch"
        else _target_group(quantized, workspace.root, TARGET_NAMES[name], baseline, options, workspace)
        for name in targets
    ]


def _torch_group(quantized: Path, baseline: str | Path | Runtime | None, options: dict[str, Any]) -> Group:
    """A quantized checkpoint on torchao's kernels against the float checkpoint that it was made of."""
    first = baseline if baseline is not None else checkpoint_path(load_quantized(quantized))
    torch = {**options, "backend": "torch"}
    return Group(_baselines(first, torch, demanded=True), (_member(quantized, torch),))


def _target_group(
    quantized: Path,
    root: Path,
    target: str,
    baseline: str | Path | Runtime | None,
    options: dict[str, Any],
    workspace: Workspace | None = None,
) -> Group:
    """The export of a quantized checkpoint for a target; made now where it is not there.

    Args:
        workspace: where it is the usual one of that, and one of an older network is made anew.
    """
    manifest = sha256_file(quantized / MANIFEST)
    directory = (
        root / TARGETS[target].folder if workspace else _place(quantized, root, TARGETS[target].folder, manifest)
    )
    there = (directory / RECORD).is_file()
    if not there or (workspace is not None and read_record(directory).manifest_sha256 != manifest):
        try:
            export(quantized, target=target, out=directory if workspace is None else None, workspace=workspace)
        except RuntimeUnavailableError:
            pass  # its files are written all the same
        except UsageError as error:  # the target has no kernel for a format
            what = json.loads((quantized / MANIFEST).read_text(encoding="utf-8"))["format"]
            info = ArtifactInfo(f"{quantized} for {target}", what, target, "none", 0, "", manifest)
            return Group((), (Member(Unavailable(info, error.what.rstrip(".")), target),))
    if read_record(directory).manifest_sha256 != manifest:
        raise ArtifactError(
            f"The export is not of {quantized} (its manifest differs).",
            where=directory,
            hint="Export it again, with --force.",
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
    target: str,
    baseline: str | Path | Runtime | None,
    options: dict[str, Any],
    made_by: str = "export",
) -> Group:
    """What lies in the directory of an export: the quantized file (or its engine) against the float one."""
    suffix = "engine" if target == "tensorrt" else "onnx"
    model, other = directory / f"model.{suffix}", directory / f"model.float.{suffix}"
    record = read_record(directory, files=True) if (directory / RECORD).is_file() else None
    proof = None if record is None or record.proof is None else record.proof.to_dict()
    if not (directory / "model.onnx").is_file():
        raise UsageError(
            "It holds the float file alone, and a check compares a quantized one with it.",
            where=directory,
            hint="Quantize the checkpoint and export that; 'evaluate' and 'bench' take the float file.",
        )
    if not model.is_file():
        return Group((), (Member(_no_engine(directory), target),))
    candidate = Member(open_if_available(model, **options), target, proof)
    if baseline is not None:
        return Group(_baselines(baseline, options, demanded=True), (candidate,))
    Workspace().need(other, made_by)
    return Group(_baselines(other, options, demanded=isinstance(candidate.artifact, Runtime)), (candidate,))


def _no_engine(directory: Path) -> Unavailable:
    """A TensorRT export that could not build its engines here."""
    from ..environment import target_states

    state = next(state for state in target_states() if state.name == "tensorrt")
    seen = open_if_available(directory / "model.onnx", backend="cpu")
    info = replace(seen.info, name=str(directory), backend="tensorrt", provider="none")
    return Unavailable(info, f"no engine was built: {state.cannot_build or 'export it again'}")


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
        beside = path.parent / "model.float.onnx"
        if path.is_file() and beside.is_file() and beside != path:
            return beside
        exported = workspace.onnx
        if (path / MANIFEST).is_file() and (exported / RECORD).is_file():
            of_it = read_record(exported).manifest_sha256 == sha256_file(path / MANIFEST)
            if of_it and (exported / "model.float.onnx").is_file():
                return exported / "model.float.onnx"
    raise UsageError(
        "No baseline is named, and no float file of the same export lies beside a candidate.",
        where=", ".join(str(one) for one in candidates if not isinstance(one, Runtime)) or None,
        hint="Name it with --baseline, or export without --no-float.",
    )


def _member(artifact: str | Path | Runtime, options: dict[str, Any]) -> Member:
    opened = artifact if isinstance(artifact, Runtime) else open_if_available(artifact, **options)
    return Member(opened, _target_of(opened), _proof_of(opened))


def _target_of(artifact: Runtime | Unavailable) -> str:
    backend = artifact.info.backend
    if backend == "onnxruntime":
        return "onnx-cuda" if artifact.info.provider.startswith("CUDA") else "onnx-cpu"
    return next(
        (name for name in TARGETS if backend.startswith(name)), "torch" if backend.startswith("torch") else backend
    )


def _proof_of(artifact: Runtime | Unavailable) -> dict[str, Any] | None:
    """What was proven of a file when it was exported, if its record lies beside it and is of this file."""
    path = Path(artifact.info.name)
    directory = path if path.is_dir() else path.parent
    if not (directory / RECORD).is_file():
        return None
    return read_record(directory).proof_of("model.onnx" if path.is_dir() else path.name, artifact.info.sha256)


def _baselines(baseline: str | Path | Runtime, options: dict[str, Any], *, demanded: bool) -> tuple[Member, ...]:
    """A float artifact in every precision that its runtime has for it: first float32, then half.

    Args:
        demanded: whether one that cannot run is an error.
    """
    if isinstance(baseline, Runtime):
        return (Member(baseline, _target_of(baseline)),)
    opened = open_artifact(baseline, **options) if demanded else open_if_available(baseline, **options)
    info = opened.info
    halved = info.backend == "openvino" and info.provider.endswith("bf16") and info.format == "float32"
    if not (halved and isinstance(opened, Runtime)):
        return (Member(opened, _target_of(opened)),)
    opened.info = replace(info, name=f"{info.name} (bf16)", format="bfloat16")
    precise = open_artifact(baseline, **{**options, "precision": "f32"})
    return (Member(precise, "openvino"), Member(opened, "openvino"))
