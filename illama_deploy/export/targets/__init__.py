"""Targets: the form of the graph that each runtime is fastest with. One file each."""

from .onnx_cpu import ONNX_CPU
from .onnx_cuda import ONNX_CUDA
from .openvino import OPENVINO
from .target import Missing, Target
from .tensorrt import TENSORRT

__all__ = ["TARGETS", "Missing", "Target"]

TARGETS: dict[str, Target] = {target.name: target for target in (ONNX_CPU, ONNX_CUDA, OPENVINO, TENSORRT)}
