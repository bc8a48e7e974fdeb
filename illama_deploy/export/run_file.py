"""Run a file that was just written, to hold it to what it promises; `runtime` is for whoever uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import ExportError
from ..onnx_session import session_options
from ..openvino_session import compile_options
from ..versions import need
from .float_graph import INPUT
from .targets import Target

__all__ = ["RunFile", "open_file", "runtime_of"]

#: Images [B, C, H, W] to all outputs.
RunFile = Callable[[np.ndarray], list[np.ndarray]]


def runtime_of(target: Target) -> str:
    """What runs a target's files here: its own runtime, of files for GPUs ONNX Runtime on the CPU."""
    return "OpenVINO" if target.name == "openvino" else "ONNX Runtime"


def open_file(path: Path, target: Target, *, fp8: bool = False) -> RunFile:
    """Load a file on the CPU; what is not quantized runs in the file's own precision.

    Args:
        fp8: it has FP8 operands.

    Raises:
        RuntimeUnavailableError: the runtime is not installed, or too old.
        ExportError: it refuses the file.
    """
    return _explained(_openvino(path) if target.name == "openvino" else _onnxruntime(path, fp8), target)


def _onnxruntime(path: Path, fp8: bool) -> Callable[[], RunFile]:
    options = session_options(fp8=fp8)
    import onnxruntime as ort

    def load() -> RunFile:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {INPUT: images})

    return load


def _openvino(path: Path) -> Callable[[], RunFile]:
    need("openvino", install="pip install 'illama-deploy[openvino]'")
    import openvino as ov

    def load() -> RunFile:
        options = {"INFERENCE_PRECISION_HINT": "f32", **compile_options()}
        compiled = ov.Core().compile_model(str(path), "CPU", options)

        def run(images: np.ndarray) -> list[np.ndarray]:
            results = compiled({0: images})
            return [np.array(results[output]) for output in compiled.outputs]

        return run

    return load


def _explained(load: Callable[[], RunFile], target: Target) -> RunFile:
    """Load, and turn what the runtime raises, then or later, into an ExportError."""
    name = runtime_of(target)
    try:
        loaded = load()
    except Exception as error:  # its exceptions share no base of their own
        raise ExportError(f"{name} refuses the graph: {_last_line(error)}") from error

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            return loaded(images)
        except Exception as error:
            raise ExportError(f"{name} fails on a batch of {len(images)}: {_last_line(error)}") from error

    return run


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
