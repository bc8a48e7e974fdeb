"""Targets: the form of the graph that each runtime is fastest with. One file each."""

from .onnx_cpu import ONNX_CPU
from .openvino import OPENVINO
from .tensorrt import TENSORRT
from .target import Target

__all__ = ["TARGETS", "Target"]

TARGETS: dict[str, Target] = {target.name: target for target in (ONNX_CPU, OPENVINO, TENSORRT)}
