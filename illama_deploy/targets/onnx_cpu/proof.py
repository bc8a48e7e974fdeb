"""Proof of integer execution, read from the graph that ONNX Runtime will really run on the CPU."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ...export.float_graph import SITE
from ...export.proof import KernelProof, LayerPrecision, required_precision
from ...formats import Format
from ...onnx_session import session_options

__all__ = ["INTEGER_KERNELS", "optimized_graph", "prove_onnxruntime"]

#: Ops of the optimized graph whose CPU kernels multiply integers.
INTEGER_KERNELS = frozenset(
    {"QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QLinearConv"}
)
WEIGHT_KERNELS = frozenset({"MatMulNBits"})
FLOAT_GEMMS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"})
#: What ONNX Runtime appends to the name of a convolution that it moves to another layout.
_MOVED = re.compile(r"_token_\d+$")
#: Ops that only arrange data or count; they have no precision worth listing.
BOOKKEEPING = frozenset({"Shape", "Slice", "Reshape", "Transpose", "Concat", "Expand", "Identity", "Loop", "Squeeze"})


def optimized_graph(path: Path) -> ir.Model:
    """The graph after all of ONNX Runtime's CPU optimizations."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        # Beside the graph, since both may be too large for one file.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # The weights are gone with the folder; only nodes are wanted.
        return ir.load(options.optimized_model_filepath)


def prove_onnxruntime(path: Path, sites: Mapping[str, Format]) -> KernelProof:
    """Inspect the optimized graph of an exported file.

    Args:
        sites: the quantized sites and their formats.

    Raises:
        ExportError: a quantized GEMM does not run on an integer (or weight-only) kernel.
    """
    expected = {
        node.name or "": required_precision(sites[site])
        for node in _nodes(ir.load(path))
        if (site := node.metadata_props.get(SITE, "")) in sites and node.op_type != "Relu"
    }
    layers, fed = [], []
    for node in _nodes(optimized_graph(path)):
        kind, name = node.op_type, node.name or "?"
        gemm = True
        if kind in INTEGER_KERNELS:
            precision = "int8"
        elif kind in WEIGHT_KERNELS:
            precision = f"int{node.attributes['bits'].as_int()} weights"
        elif kind in FLOAT_GEMMS:
            precision = "float32"
            if any(_is_dequantized(value) for value in node.inputs):
                fed.append(name)
        elif kind in BOOKKEEPING or name.startswith(("groups.", "micro.", "tokens.")):
            continue
        else:
            gemm, precision = False, "uint8" if kind == "QuantizeLinear" else "float32"
        quantized = gemm and precision != "float32"
        # Fusions name the new node after the GEMM, sometimes with a suffix of their own; a change of layout, too.
        names = (name, name.split("/")[0], _MOVED.sub("", name))
        gemm_of = next((key for key in names if key in expected), name) if quantized else None
        layers.append(LayerPrecision(name, kind, precision, gemm, gemm_of))
    return KernelProof(expected, tuple(layers), tuple(fed)).demand("ONNX Runtime", path)


def _nodes(model: ir.Model) -> list[ir.Node]:
    """All nodes, those inside loops too."""
    return list(ir.traversal.RecursiveGraphIterator(model.graph))


def _is_dequantized(value: ir.Value | None) -> bool:
    """Whether a value is a DequantizeLinear's output, perhaps moved about."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "DequantizeLinear":
            return True
        if node.op_type not in ("Transpose", "Reshape", "Cast", "Slice"):
            return False
        value = node.inputs[0]
    return False
