"""Proofs: what a runtime makes of an exported file, read from its own optimized graph. One file per runtime."""

from .onnxruntime_cpu import INTEGER_KERNELS, optimized_graph, prove_onnxruntime
from .openvino_cpu import prove_openvino
from .proof import KernelProof, LayerPrecision

__all__ = [
    "INTEGER_KERNELS",
    "KernelProof",
    "LayerPrecision",
    "optimized_graph",
    "prove_onnxruntime",
    "prove_openvino",
]
