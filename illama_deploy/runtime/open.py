"""Open whatever an artifact's path points to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..checkpoint import EMBEDDED, read_checkpoint
from ..errors import ArtifactError, RuntimeUnavailableError, UsageError
from ..quant.artifact import MANIFEST
from .onnx_file import read_onnx
from .onnx_runtime import OnnxRuntime
from .openvino_cpu import PRECISIONS, OpenVinoCpu
from .runtime import ArtifactInfo, Runtime, Unavailable
from .tensorrt_engine import TensorRTEngine, describe_engine
from .torch_cpu import open_float, open_quantized
from .torchao_cpu import open_torchao

__all__ = ["open_artifact", "open_if_available"]

ENGINE_SUFFIX = ".engine"
#: The file that a directory of an export stands for: the first that is there.
EXPORTED = ("model.onnx", "model.float.onnx")


def open_artifact(
    name: str | Path,
    *,
    threads: int | None = None,
    heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    ema: bool = False,
    cuda_graph: bool = False,
    backend: str | None = None,
    precision: str = "auto",
) -> Runtime:
    """Load a float checkpoint, a quantized directory, an `.onnx` file (or the directory of an export), or an `.engine`.

    Args:
        name: path, or `digits` for the embedded default.
        threads: that it may use; all cores where not given.
        heads, image_size, ema: of a float checkpoint, as in `read_checkpoint`.
        cuda_graph: of an engine: replay a CUDA graph for each batch size.
        backend: `torch`: run quantized directories on torchao's kernels, compiled, instead of simulating them;
            `cpu`: run ONNX files in ONNX Runtime on the CPU, whatever they were written for.
        precision: of what is not quantized, in OpenVINO: `auto`, `bf16` or `f32`.

    Raises:
        DeployError: nothing there, damaged, or of another kind.
        RuntimeUnavailableError: sound, and cannot run on this machine.
    """
    if threads is not None and threads < 1:
        raise UsageError("At least one thread is needed.", hint="Raise --threads.")
    cores = os.cpu_count() or 1
    if threads is not None and threads > 4 * cores:
        raise UsageError(f"{threads} threads are asked for, and there are {cores} cores.", hint="Lower --threads.")
    threads = threads or cores
    if backend not in (None, "torch", "cpu"):
        raise UsageError(
            f"There is no target {backend!r} to choose here.", hint="Use --target torch or cpu, or leave it out."
        )
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r}.", hint=f"Use one of: {', '.join(PRECISIONS)}.")
    path, label = Path(name), str(name)
    if label != EMBEDDED and not _exists(path):
        raise ArtifactError("There is no such artifact.", where=path, hint="Check the path.")
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return (open_torchao if backend == "torch" else open_quantized)(label, path, threads)
        if (file := _exported(path)) is not None:
            return _open_onnx(label, file, threads, precision, backend)
        raise ArtifactError(
            "The directory holds neither a quantized checkpoint nor an export.",
            where=path,
            hint="Give what 'illama-deploy quantize' or 'illama-deploy export' wrote.",
        )
    if path.suffix == ENGINE_SUFFIX:
        return TensorRTEngine(label, path, threads, cuda_graph=cuda_graph)
    if path.suffix == ".onnx":
        return _open_onnx(label, path, threads, precision, backend)
    return open_float(label, read_checkpoint(name, heads=heads, image_size=image_size, ema=ema), threads)


def _open_onnx(name: str, path: Path, threads: int, precision: str, backend: str | None) -> Runtime:
    """Run a file with the runtime that it was written for; TensorRT's own in ONNX Runtime on the CPU."""
    file = read_onnx(path)
    if file.target == "openvino" and backend != "cpu":
        return OpenVinoCpu(name, file, threads, precision=precision)
    device = "cuda" if file.target == "onnx-cuda" and backend != "cpu" else "cpu"
    return OnnxRuntime(name, file, threads, device=device)


def open_if_available(name: str | Path, **options: Any) -> Runtime | Unavailable:
    """Load an artifact as `open_artifact` does, or say why it cannot run on this machine.

    Raises:
        DeployError: anything else that is wrong with it.
    """
    try:
        return open_artifact(name, **options)
    except RuntimeUnavailableError as error:
        path, label, reason = Path(name), str(name), error.what.rstrip(".")
        if path.suffix == ENGINE_SUFFIX:
            info, batches = describe_engine(label, path)
            return Unavailable(info, reason, batches)
        file = read_onnx((_exported(path) or path) if path.is_dir() else path)
        info = ArtifactInfo.of_file(label, file, file.target or "unknown", "none")
        return Unavailable(info, reason)


def _exported(directory: Path) -> Path | None:
    return next((path for name in EXPORTED if (path := directory / name).is_file()), None)


def _exists(path: Path) -> bool:
    """Whether it exists, or stands where one may not look; reading it then says so."""
    try:
        path.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
