"""Open whatever an artefact's path points to."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoint import EMBEDDED, read_checkpoint
from ..errors import ArtifactError, RuntimeUnavailableError, UsageError
from ..quant.artifact import MANIFEST
from .onnx_file import read_onnx
from .onnxruntime_cpu import OnnxRuntimeCpu
from .openvino_cpu import OpenVinoCpu
from .runtime import Runtime
from .torch_cpu import open_float, open_quantized

__all__ = ["open_artifact"]


def open_artifact(
    name: str | Path,
    *,
    threads: int | None = None,
    heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    ema: bool = False,
) -> Runtime:
    """Load a float checkpoint, a quantized directory, or an `.onnx` file (or the directory of an export).

    Args:
        name: path, or `digits` for the embedded default.
        threads: that it may use; all cores where not given.
        heads, image_size, ema: of a float checkpoint, as in `read_checkpoint`.

    Raises:
        DeployError: nothing there, damaged, or of another kind.
    """
    if threads is not None and threads < 1:
        raise UsageError("At least one thread is needed.", hint="Raise --threads.")
    cores = os.cpu_count() or 1
    if threads is not None and threads > 4 * cores:
        raise UsageError(f"{threads} threads are asked for, and there are {cores} cores.", hint="Lower --threads.")
    threads = threads or cores
    path, label = Path(name), str(name)
    if label != EMBEDDED and not _exists(path):
        raise ArtifactError("There is no such artefact.", where=path, hint="Check the path.")
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return open_quantized(label, path, threads)
        if (path / "model.onnx").is_file():
            return _open_onnx(label, path / "model.onnx", threads)
        raise ArtifactError(
            "The directory holds neither a quantized checkpoint nor an export.",
            where=path,
            hint="Give what 'illama-deploy quantize' or 'illama-deploy export' wrote.",
        )
    if path.suffix == ".engine":
        raise RuntimeUnavailableError(
            "This version of illama-deploy builds engines and does not run them.",
            where=path,
            hint="Measure the ONNX file beside it, or run the engine with TensorRT's own tools.",
        )
    if path.suffix == ".onnx":
        return _open_onnx(label, path, threads)
    return open_float(label, read_checkpoint(name, heads=heads, image_size=image_size, ema=ema), threads)


def _open_onnx(name: str, path: Path, threads: int) -> Runtime:
    """Run a file with the runtime that it was written for; ONNX Runtime where that is none of this machine's CPU."""
    file = read_onnx(path)
    return OpenVinoCpu(name, file, threads) if file.target == "openvino" else OnnxRuntimeCpu(name, file, threads)


def _exists(path: Path) -> bool:
    """Whether it exists, or stands where one may not look; reading it then says so."""
    try:
        path.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
