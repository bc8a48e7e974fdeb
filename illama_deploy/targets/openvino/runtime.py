"""OpenVINO on the CPU, with bfloat16 around the integers where the CPU has it."""

from __future__ import annotations

import numpy as np

from ...errors import ArtifactError
from ...runtime import ArtifactInfo, Runtime
from ...runtime.onnx_file import OnnxFile
from ...versions import need
from .session import compile_options

__all__ = ["OpenVinoCpu"]


class OpenVinoCpu(Runtime):
    """A compiled model of one `.onnx` file that takes images and gives logits."""

    def __init__(self, name: str, file: OnnxFile, threads: int, *, precision: str = "auto") -> None:
        install = "pip install 'illama-deploy[openvino]'"
        need("openvino", install=install, where=file.path)
        import openvino as ov

        self.require(file.runtimes, "openvino", ov.__version__, file.path)
        core = ov.Core()
        if precision == "auto":
            precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
            **compile_options(),
        }
        try:
            compiled = core.compile_model(str(file.path), "CPU", options)
        except RuntimeError as error:
            raise ArtifactError(
                f"OpenVINO {ov.__version__} cannot load it: {str(error).strip().splitlines()[-1]}",
                where=file.path,
                hint="It may be cut short or need a newer runtime; export it again.",
            ) from error
        self.request = compiled.create_infer_request()
        self.describe(file, threads)
        self.target = "openvino"
        provider = f"CPU, {precision}" + (", integers computed in float" if compile_options() else "")
        self.info = ArtifactInfo.of_file(name, file, "openvino", provider)

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        # A copy: the next inference writes into the same memory.
        return np.array(next(iter(self.request.infer({0: images_BCHW}).values())))
