"""ONNX Runtime on the CPU or on CUDA; the provider is asserted, never fallen back to."""

from __future__ import annotations

import numpy as np

from ...environment import cuda_problem
from ...errors import ArtifactError, RuntimeUnavailableError, parameter
from ...onnx_session import session_options
from ...runtime import ArtifactInfo, Runtime
from ...runtime.onnx_file import OnnxFile

__all__ = ["OnnxRuntime"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Runtime):
    """A session on one `.onnx` file that takes images and gives logits."""

    def __init__(self, name: str, file: OnnxFile, threads: int, *, device: str = "cpu") -> None:
        import onnxruntime as ort

        provider = PROVIDERS[device]
        self.require(file.runtimes, "onnxruntime", ort.__version__, file.path)
        if device == "cuda" and (problem := _no_cuda(ort.get_available_providers())) is not None:
            raise RuntimeUnavailableError(
                f"It was written for CUDA, and {problem}.",
                where=file.path,
                hint=f"Run it where CUDA is, or say {parameter(backend='cpu')} to measure its accuracy on the CPU.",
            )
        options = session_options(fp8=file.format.startswith("FP8"))
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads spin within a run, as they do once deployed, but not after it: they would steal time from the other
        # artifact of an interleaved pair.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = ort.InferenceSession(str(file.path), options, providers=[provider])
        except Exception as error:  # its exceptions share no base of their own
            raise ArtifactError(
                f"ONNX Runtime {ort.__version__} cannot load it: {str(error).splitlines()[0]}",
                where=file.path,
                hint="It may be cut short or need a newer runtime; export it again.",
            ) from error
        # ONNX Runtime always puts the CPU behind another provider, for what computes shapes.
        expected = list(dict.fromkeys((provider, PROVIDERS["cpu"])))
        if (used := self.session.get_providers()) != expected:
            raise RuntimeUnavailableError(f"ONNX Runtime chose {used}, not {provider}.", where=file.path)
        self.describe(file, threads)
        self.target = f"onnx-{device}"
        self.input = file.input
        self.info = ArtifactInfo.of_file(name, file, "onnxruntime", provider)

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self.session.run(None, {self.input: images_BCHW})[0]
        return logits


def _no_cuda(providers: list[str]) -> str | None:
    if (problem := cuda_problem()) is not None:
        return problem
    return None if PROVIDERS["cuda"] in providers else "this onnxruntime has no CUDA provider"
