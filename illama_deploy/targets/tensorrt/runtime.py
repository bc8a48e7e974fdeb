"""TensorRT engines on the GPU that is here; what is not as the sidecar says is refused, never worked around."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...environment import cuda_problem
from ...errors import ArtifactError, RuntimeUnavailableError, parameter
from ...runtime import ArtifactInfo, BatchLimits, Runtime
from .package import MODULES, error_log, load_package
from .sidecar import (
    check_batch,
    check_capability,
    check_files,
    check_release,
    read_sidecar,
)

__all__ = ["TensorRTEngine", "describe_engine"]


class TensorRTEngine(Runtime):
    """One `.engine` with its sidecar, on a CUDA stream of its own, between pinned host buffers.

    Batches are those of the engine's profile. A run takes host images to host logits, so timings include both copies.

    Args:
        threads: recorded only; the engine runs on the GPU.
        cuda_graph: capture a CUDA graph at the first run of each batch size and replay it after.

    Raises:
        ArtifactError: engine or sidecar missing, damaged or edited; another version or GPU than it was built for.
        RuntimeUnavailableError: the package is not here, there is no CUDA device, or CUDA fails.
    """

    target = "tensorrt"

    def __init__(self, name: str, path: Path, threads: int, *, cuda_graph: bool = False) -> None:
        sidecar = read_sidecar(path)
        check_files(sidecar)
        package = load_package(sidecar.flavor)
        check_release(sidecar, str(package.__version__))
        self.preprocessing = sidecar.preprocessing
        if (problem := cuda_problem()) is not None:
            raise RuntimeUnavailableError(
                f"An engine runs on a GPU: {problem}.",
                where=path,
                hint="Mend that, or run it on a machine with a GPU that it was built for; the ONNX file runs here.",
            )
        major, minor = torch.cuda.get_device_capability()
        check_capability(sidecar, f"{major}.{minor}")
        self.info, self.batches = describe_engine(name, path, provider=torch.cuda.get_device_name())
        self.threads, self.classes = threads, sidecar.classes
        self.task = sidecar.task
        self.class_names, self.data = sidecar.class_names, sidecar.data
        self._trt, self._sidecar, self._cuda_graph = package, sidecar, cuda_graph
        log, self._complaints = error_log(package)
        self._runtime = package.Runtime(log)  # outlives the engine that it loads
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise self._error("cannot load the engine")
        for tensor in (sidecar.input, sidecar.output):
            if self._engine.get_tensor_dtype(tensor) != package.DataType.FLOAT:
                raise self._error(f"has another type than float32 for {tensor}")
        largest, device = sidecar.batches[1], torch.device("cuda", torch.cuda.current_device())
        shapes = {sidecar.input: sidecar.image, sidecar.output: sidecar.logits}
        try:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._host = {key: torch.empty((largest, *s), pin_memory=True) for key, s in shapes.items()}
            self._device = {key: torch.empty((largest, *s), device=device) for key, s in shapes.items()}
        except RuntimeError as error:  # out of memory is one
            raise self._error(f"cannot allocate buffers for {largest} images: {str(error).splitlines()[0]}") from error
        # What is captured depends on the context's state, so each captured batch size has a context of its own.
        self._contexts: dict[int, Any] = {}
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._context = None if self._captures else self._new_context()

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        batch = len(images_BCHW)
        check_batch(self._sidecar, batch)
        given, taken = self._sidecar.input, self._sidecar.output
        self._host[given][:batch].copy_(torch.from_numpy(images_BCHW))
        try:
            if self._captures and batch not in self._graphs:
                self._capture(batch)
            with torch.cuda.stream(self._stream):
                self._device[given][:batch].copy_(self._host[given][:batch], non_blocking=True)
                if self._captures:
                    self._graphs[batch].replay()
                else:
                    self._execute(self._context, batch)
                self._host[taken][:batch].copy_(self._device[taken][:batch], non_blocking=True)
            self._stream.synchronize()
        except RuntimeError as error:  # torch reports CUDA's failures so
            raise self._error(f"fails on a batch of {batch}: {str(error).splitlines()[0]}") from error
        return self._host[taken][:batch].numpy().copy()

    @property
    def _captures(self) -> bool:
        """Whether graphs are ours to capture: TensorRT for RTX captures its own, around kernels that it swaps."""
        return self._cuda_graph and self._sidecar.flavor == "tensorrt"

    def _new_context(self) -> Any:
        if self._sidecar.flavor == "rtx":
            config = self._engine.create_runtime_config()
            # Kernels for a batch size are compiled at its first run, not behind later ones that are being timed.
            config.dynamic_shapes_kernel_specialization_strategy = (
                self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            if self._cuda_graph:
                config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._error("cannot make an execution context")
        for tensor, buffer in self._device.items():
            if not context.set_tensor_address(tensor, buffer.data_ptr()):
                raise self._error(f"has no tensor {tensor}")
        return context

    def _execute(self, context: Any, batch: int) -> None:
        shape = (batch, *self._sidecar.image)
        if not (
            context.set_input_shape(self._sidecar.input, shape) and context.execute_async_v3(self._stream.cuda_stream)
        ):
            raise self._error(f"cannot run a batch of {batch}")

    def _capture(self, batch: int) -> None:
        context = self._new_context()
        # A first run outside the capture does what TensorRT puts off until shapes are known.
        self._execute(context, batch)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._execute(context, batch)
        self._contexts[batch], self._graphs[batch] = context, graph

    def _error(self, what: str) -> ArtifactError:
        said = "; ".join(self._complaints[-3:])
        return ArtifactError(
            f"{MODULES[self._sidecar.flavor]} {self._trt.__version__} {what}" + (f": {said}" if said else "."),
            where=self._sidecar.engine,
            hint=f"If memory ran out, build for a smaller {parameter('max_batch')}; else build again: "
            f"{self._sidecar.rebuild}",
        )


def describe_engine(name: str, path: Path, provider: str = "none") -> tuple[ArtifactInfo, BatchLimits]:
    """What a report says of an engine, and its profile, from the sidecar alone.

    Raises:
        ArtifactError: the sidecar is missing, damaged or edited.
    """
    sidecar = read_sidecar(path)
    info = ArtifactInfo(
        name,
        sidecar.format,
        f"{MODULES[sidecar.flavor]} {sidecar.version}",
        provider,
        sidecar.size_bytes,
        sidecar.sha256,
        sidecar.manifest_sha256,
    )
    return info, BatchLimits(*sidecar.batches, partial(check_batch, sidecar))
