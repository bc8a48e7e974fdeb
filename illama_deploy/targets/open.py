"""Open whatever an artifact's path points to."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint import EMBEDDED, read_checkpoint
from ..errors import ArtifactError, RuntimeUnavailableError, UsageError, parameter
from ..hub_folder import is_hub_folder
from ..quant.artifact import MANIFEST
from ..runtime import Runtime, Unavailable
from ..runtime.onnx_file import OnnxFile, read_onnx
from . import ALL, TARGETS, find_target
from .onnx_target import OnnxTarget
from .target import Opening, Target
from .torch_cpu import open_float

__all__ = ["PRECISIONS", "exported_file", "find_file", "open_artifact", "open_if_available"]

#: Of what is not quantized, where a runtime lets one choose.
PRECISIONS = ("auto", "bf16", "f32")
#: What runs a file of ONNX that names no target, or one that is not known here.
OTHER_ONNX = "onnx-cpu"


@dataclass(frozen=True)
class _Exported:
    """A file of an export, and the target that it was written for; of ONNX, what it says of itself."""

    path: Path
    target: Target
    onnx: OnnxFile | None = None


def open_artifact(
    name: str | Path,
    *,
    threads: int | None = None,
    heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    ema: bool = False,
    model: str | None = None,
    num_classes: int | None = None,
    cuda_graph: bool = False,
    backend: str | None = None,
    precision: str = "auto",
) -> Runtime:
    """Load a float checkpoint, a quantized directory, the file of an export, or the directory of one.

    Args:
        name: path, or `digits` for the embedded default.
        threads: that it may use; all cores where not given.
        heads, image_size, ema, model, num_classes: of a float checkpoint, as in `read_checkpoint`.
        cuda_graph: replay a CUDA graph for each batch size, where there is a GPU.
        backend: name of the target that runs it, whatever it was made for: `torch` for quantized directories (on
            torchao's kernels, compiled, instead of simulating them), one that runs ONNX for ONNX files.
        precision: of what is not quantized, where the runtime lets one choose: `auto`, `bf16` or `f32`.

    Raises:
        DeployError: nothing there, damaged, or of another kind.
        RuntimeUnavailableError: sound, and cannot run on this machine.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r}.", hint=f"Use one of: {', '.join(PRECISIONS)}.")
    chosen = None if backend is None else find_target(backend)
    opening = Opening(_threads(threads), precision, cuda_graph, chosen is not None)
    geometry: dict[str, Any] = {"heads": heads, "image_size": image_size, "ema": ema}
    named = {"model": model, "num_classes": num_classes}
    geometry |= {key: value for key, value in named.items() if value is not None}
    runtime = _open(name, chosen, opening, geometry)
    asked = {"threads": opening.threads, "cuda_graph": cuda_graph, "backend": backend, "precision": precision}
    runtime.opened = {"name": str(name), **asked, **geometry}
    return runtime


def _open(name: str | Path, chosen: Target | None, opening: Opening, geometry: dict[str, Any]) -> Runtime:
    """Whatever stands there, in the target that was chosen, if any."""
    path, label = Path(name), str(name)
    if label != EMBEDDED and not _exists(path):
        raise ArtifactError("There is no such artifact.", where=path, hint="Check the path.")
    if (path / MANIFEST).is_file():
        return _running(chosen, ALL["torch"], path).open(label, path, opening)
    if (found := find_file(path)) is not None:
        return _running(chosen, found.target, path).open(label, found.path, replace(opening, onnx=found.onnx))
    if path.is_dir() and not is_hub_folder(path):
        raise ArtifactError(
            "The directory holds neither a quantized checkpoint nor an export.",
            where=path,
            hint="Give what 'illama-deploy quantize' or 'illama-deploy export' wrote.",
        )
    return open_float(label, read_checkpoint(name, **geometry), opening.threads)


def open_if_available(name: str | Path, **options: Any) -> Runtime | Unavailable:
    """Load an artifact as `open_artifact` does, or say why it cannot run on this machine.

    Raises:
        DeployError: anything else that is wrong with it.
    """
    try:
        return open_artifact(name, **options)
    except RuntimeUnavailableError as error:
        found = find_file(Path(name))
        if found is None:
            raise
        info, batches = found.target.describe(str(name), found.path)
        return Unavailable(info, error.what.rstrip("."), batches, found.target.name)


def find_file(path: Path) -> _Exported | None:
    """The file that a path means, with the target that it was written for: itself, or the first that stands in the
    directory of an export; None where it is neither.

    Raises:
        ArtifactError: it is damaged.
    """
    if path.is_dir():
        inside = exported_file(path)
        return None if inside is None else find_file(inside)
    targets = [target for target in TARGETS.values() if path.suffix in (target.suffix, target.runs_suffix)]
    if not targets:
        return None
    if all(path.suffix == target.suffix and isinstance(target, OnnxTarget) for target in targets):
        file = read_onnx(path)
        return _Exported(path, TARGETS.get(file.target or "", TARGETS[OTHER_ONNX]), file)
    return _Exported(path, next(target for target in targets if path.suffix == target.runs_suffix))


def exported_file(directory: Path) -> Path | None:
    """The file that the directory of an export stands for: what was written of the quantized network, else the float
    one."""
    names = dict.fromkeys(f"{stem}{target.suffix}" for stem in ("model", "model.float") for target in TARGETS.values())
    return next((path for name in names if (path := directory / name).is_file()), None)


def _running(chosen: Target | None, own: Target, path: Path) -> Target:
    """The target that runs a file: the one that was chosen, if it can.

    Raises:
        UsageError: it cannot.
    """
    if chosen is None or chosen is own or (isinstance(chosen, OnnxTarget) and isinstance(own, OnnxTarget)):
        return chosen or own
    raise UsageError(
        f"{chosen.runtime} does not run what was made for {own.runtime}.",
        where=path,
        hint=f"Export the quantized checkpoint for {chosen.name}, or leave {parameter('backend', 'targets')} out.",
    )


def _threads(threads: int | None) -> int:
    """How many an artifact may use; all cores where nothing is said."""
    cores = os.cpu_count() or 1
    if threads is not None and threads < 1:
        raise UsageError("At least one thread is needed.", hint=f"Raise {parameter('threads')}.")
    if threads is not None and threads > 4 * cores:
        raise UsageError(
            f"{threads} threads are asked for, and there are {cores} cores.", hint=f"Lower {parameter('threads')}."
        )
    return threads or cores


def _exists(path: Path) -> bool:
    """Whether it exists, or stands where one may not look; reading it then says so."""
    try:
        path.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
