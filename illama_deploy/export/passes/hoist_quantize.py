"""Quantize before moving data: a transpose of bytes is four times cheaper than one of floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

__all__ = ["HoistQuantize"]

MOVEMENT = {"Transpose", "Reshape", "Slice"}


class HoistQuantize(InPlacePass):
    """Move per-tensor QuantizeLinear nodes above the data movement that feeds them.

    Transpose, Reshape and Slice only pick and reorder elements, so they commute with elementwise rounding:

        x -> Slice -> Transpose -> Q   becomes   x -> Q -> Slice -> Transpose

    Where x is quantized with the same scale already, that node is used. The float chain stays for other
    consumers and otherwise dies (`RemoveDead`).

    One case stays as it is: x made by an integer GEMM that takes other bytes (U8) than the node gives (S8).
    Right behind that GEMM it would be taken for the GEMM's own output type, which no kernel can give, and the
    GEMM would fall back to float.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "QuantizeLinear" and _chain(node):
                self._hoist(model.graph, node)
                modified = True
        return PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No QuantizeLinear is fed by data movement."""
        for node in model.graph:
            if node.op_type == "QuantizeLinear" and _chain(node):
                raise PostconditionError(f"{node.name} still follows data movement")

    def _hoist(self, graph: ir.Graph, quantize: ir.Node) -> None:
        chain = _chain(quantize)
        root = chain[0].inputs[0]
        assert root is not None
        value = self._quantized(graph, root, quantize)
        for moved in chain:
            copy = ir.node(
                moved.op_type,
                [value, *moved.inputs[1:]],
                dict(moved.attributes),
                name=f"{moved.name}.quantized",
            )
            copy.outputs[0].name = f"{copy.name}.out"
            graph.insert_before(quantize, copy)
            value = copy.outputs[0]
        ir.convenience.replace_all_uses_with(quantize.outputs[0], value)
        graph.remove(quantize, safe=True)

    def _quantized(self, graph: ir.Graph, root: ir.Value, like: ir.Node) -> ir.Value:
        """Quantize `root` with the parameters of `like`, or take what does so already; right behind `root`."""
        for node in root.consumers():
            if node.op_type == "QuantizeLinear" and _same_parameters(node, like):
                graph.remove(node)
                break
        else:
            node = ir.node("QuantizeLinear", [root, *like.inputs[1:]], name=f"{root.name}.quantize")
            node.outputs[0].name = f"{node.name}.out"
        producer = root.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        return node.outputs[0]


def _same_parameters(one: ir.Node, other: ir.Node) -> bool:
    """Whether two QuantizeLinear nodes have equal constant scales and zero points."""
    for a, b in zip(one.inputs[1:], other.inputs[1:], strict=True):
        if a is b:
            continue
        values = [v.const_value for v in (a, b) if v is not None]
        if None in values or len(values) != 2:
            return False
        first, second = (v.numpy() for v in values if v is not None)
        if first.dtype != second.dtype or not np.array_equal(first, second):
            return False
    return True


def _chain(quantize: ir.Node) -> list[ir.Node]:
    """Data movement that a QuantizeLinear can be moved above, topmost first."""
    if _dtype(quantize) == ir.DataType.FLOAT8E4M3FN:  # Slice takes none
        return []
    chain: list[ir.Node] = []
    value = quantize.inputs[0]
    while value is not None and (node := value.producer()) is not None and node.op_type in MOVEMENT:
        chain.insert(0, node)
        value = node.inputs[0]
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type in ("Gemm", "MatMul"):
        operand = producer.inputs[0].producer() if producer.inputs[0] is not None else None
        if operand is not None and operand.op_type == "DequantizeLinear" and _dtype(operand) != _dtype(quantize):
            return []
    return chain


def _dtype(node: ir.Node) -> ir.DataType | None:
    """Integer type of a QuantizeLinear or DequantizeLinear, by its zero point."""
    zero_point = node.inputs[2]
    return zero_point.dtype if zero_point is not None else None
