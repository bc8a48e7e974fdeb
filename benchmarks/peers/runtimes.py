"""Every artifact behind illama_deploy's `Runtime`, so that its accuracy and latency code measures all alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from illama_deploy.compilation import RECOMPILE_LIMIT
from illama_deploy.preprocessing import default_preprocessing
from illama_deploy.runtime import ArtifactInfo, Runtime
from illama_deploy.runtime.onnx_file import read_onnx
from illama_deploy.targets.onnx_cpu.runtime import OnnxRuntime
from illama_deploy.targets.torch_cpu.torchao import open_torchao

from .case import BATCHES, Case

SIZE = (32, 32)
HINTS = ("f32", "bf16")


class _Here(Runtime):
    def __init__(self, case: Case, path: Path, threads: int) -> None:
        self.info = ArtifactInfo(case.name, case.format, case.runtime, "CPU", path.stat().st_size, "")
        self.preprocessing, self.classes, self.threads = default_preprocessing(SIZE, 3), 10, threads


class OpenVino(_Here):
    """INFERENCE_PRECISION_HINT stands in `hint.txt` beside `made.json`, once `choose_hint` has written it."""

    def __init__(self, case: Case, path: Path, threads: int, hint: str) -> None:
        import openvino as ov

        super().__init__(case, path, threads)
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
        self.request = ov.Core().compile_model(path, "CPU", options).create_infer_request()

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        return np.array(self.request.infer([images_BCHW], share_inputs=True)[0])


class Inductor(_Here):
    """torch.compile with frozen weights, a kernel for each batch size."""

    def __init__(self, case: Case, path: Path, threads: int) -> None:
        import torch
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        super().__init__(case, path, threads)
        torch.set_num_threads(threads)
        inductor.freezing = True  # its integer kernels are chosen only then
        dynamo.recompile_limit = RECOMPILE_LIMIT
        if path.suffix == ".pt2":
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer  # noqa: F401  (operators)

            model: Any = torch.export.load(path).module()
        else:
            model = torch.load(path, weights_only=False)
        self.dtype = torch.bfloat16 if case.format == "bf16" else torch.float32
        self.model = torch.compile(model.to(self.dtype) if case.is_float else model, dynamic=False, fullgraph=True)

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(images_BCHW).to(self.dtype)).float().numpy()


def _openvino(case: Case, path: Path, threads: int, hint: str) -> Runtime:
    return OpenVino(case, path, threads, hint)


def _inductor(case: Case, path: Path, threads: int, hint: str) -> Runtime:
    if not case.ours:
        return Inductor(case, path, threads)
    runtime = open_torchao(case.name, path.parent, threads)
    for batch in BATCHES:
        # Ours are opened, and so compiled, before PT2E's quantizer is imported: that changes torch's passes for all
        # that is compiled later in the process (W8A8 at batch 8: 46 ms instead of 29).
        runtime.run(np.zeros((batch, 3, *SIZE), np.float32))
    return runtime


#: key → (name shown, how an artifact is opened).
RUNTIMES: dict[str, tuple[str, Callable[[Case, Path, int, str], Runtime]]] = {
    "onnxruntime": ("ONNX Runtime", lambda case, path, threads, hint: OnnxRuntime(case.name, read_onnx(path), threads)),
    "openvino": ("OpenVINO", _openvino),
    "inductor": ("torch.compile", _inductor),
}


def size_bytes(path: Path) -> int:
    """Of the artifact: the file and its weights where they lie beside it."""
    beside = [path.with_suffix(".bin"), path.with_name(path.name + ".data"), path.with_name(path.name + "_data")]
    return sum(p.stat().st_size for p in [path, *beside] if p.is_file())
