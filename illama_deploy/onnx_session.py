"""What every session of ONNX Runtime here starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .versions import need

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["session_options"]


def session_options(*, fp8: bool = False) -> ort.SessionOptions:
    """Options that keep the arithmetic that the file says.

    Args:
        fp8: the file has FP8 operands.

    Raises:
        RuntimeUnavailableError: ONNX Runtime is older than this package allows.
    """
    need("onnxruntime", install="pip install illama-deploy")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Weights of 4 bits meet activations in float32. By default it would round those to 8 bits, which nobody asked for
    # and which is 9 % slower at batch 8 (docs/log.md).
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Before VNNI, pairs of U8×S8 products saturate in 16 bits, without a word: 19 dB instead of 47 on the network for
    # CIFAR-10. With this, processors that would do so multiply U8×U8, which is exact; on others it changes nothing.
    # ONNX Runtime before 1.30 ends the process here on a file with dynamic steps; pyproject.toml asks for 1.30.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if fp8:
        # Its integer fusions take FP8 operands for integers and then refuse them; the plain operators run.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options
