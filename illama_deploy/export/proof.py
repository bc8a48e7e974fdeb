"""Proof of integer execution, read from the graph that ONNX Runtime will really run."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ..errors import ExportError
from .float_graph import SITE

__all__ = ["INTEGER_KERNELS", "KernelProof", "optimized_graph", "prove_integer_kernels"]

#: Ops of the optimized graph whose CPU kernels multiply integers.
INTEGER_KERNELS = frozenset(
    {"QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QLinearConv"}
)
FLOAT_GEMMS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"})


@dataclass(frozen=True)
class KernelProof:
    """What the optimized graph holds.

    Attributes:
        expected: number of GEMMs that the recipe quantizes (queries, keys and values are one each).
        integer: number of integer kernels by op type.
        float_gemms: names of float GEMMs left (the two products of attention, and sites left out).
        fed_by_dequantize: names of float GEMMs that multiply dequantized integers; must be empty.
    """

    expected: int
    integer: dict[str, int]
    float_gemms: tuple[str, ...]
    fed_by_dequantize: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every quantized GEMM runs on an integer kernel."""
        return sum(self.integer.values()) == self.expected and not self.fed_by_dequantize

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.integer.items())) or "none"
        return (
            f"{sum(self.integer.values())} of {self.expected} quantized GEMMs on integer kernels ({kinds}); "
            f"{len(self.float_gemms)} float GEMMs, {len(self.fed_by_dequantize)} of them fed by DequantizeLinear"
        )


def optimized_graph(path: Path) -> ir.Model:
    """The graph after all of ONNX Runtime's CPU optimizations."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = ir.load(options.optimized_model_filepath)
        # Weights lie in the temporary folder where they were put outside the file; only nodes are wanted.
        return model


def prove_integer_kernels(path: Path, sites: Sequence[str]) -> KernelProof:
    """Inspect the optimized graph of an exported file.

    Args:
        sites: names of the quantized sites.

    Raises:
        ExportError: a quantized GEMM does not run on an integer kernel.
    """
    wanted = set(sites)
    expected = sum(node.metadata_props.get(SITE) in wanted for node in _nodes(ir.load(path)))
    nodes = _nodes(optimized_graph(path))
    integer = Counter(node.op_type for node in nodes if node.op_type in INTEGER_KERNELS)
    gemms = [node for node in nodes if node.op_type in FLOAT_GEMMS]
    fed = [node.name or "?" for node in gemms if any(_is_dequantized(value) for value in node.inputs)]
    proof = KernelProof(expected, dict(integer), tuple(node.name or "?" for node in gemms), tuple(fed))
    if not proof.holds:
        raise ExportError(
            f"Not every quantized GEMM would run on an integer kernel: {proof}.",
            where=", ".join(fed[:5]) or path,
            hint="This version of ONNX Runtime optimizes differently; see 'illama-deploy doctor' for its number.",
        )
    return proof


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
