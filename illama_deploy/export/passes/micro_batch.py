"""Run large batches a few images at a time, inside the graph, so that activations stay in the cache."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

from ..values import constant_value

__all__ = ["MicroBatch"]


class MicroBatch(InPlacePass):
    """Put the whole graph into a Loop over groups of at most `size` images.

        images -> body -> logits    becomes
        Loop i = 0 .. ceil(batch / size) - 1:  logits = Concat(logits, body(images[i·size : (i + 1)·size]))

    The last group may be smaller, so no batch size pays for images that are not there. The weights move into the
    body: ONNX Runtime optimizes and prepacks there as it does at the top.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def requires(self, model: ir.Model) -> None:
        """One input and one output, both with the batch first; not done already."""
        graph = model.graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1 or any(node.op_type == "Loop" for node in graph):
            raise PreconditionError("needs a plain graph of one input and one output")

    def call(self, model: ir.Model) -> PassResult:
        body = model.graph
        images, logits = body.inputs[0], body.outputs[0]
        assert logits.shape is not None
        each = tuple(int(str(side)) for side in logits.shape[1:])
        outer_images = ir.val(images.name, dtype=images.dtype, shape=images.shape)

        # The body: slice, the network, append.
        number = ir.val("micro.number", dtype=ir.DataType.INT64, shape=())
        go_on = ir.val("micro.go_on", dtype=ir.DataType.BOOL, shape=())
        done = ir.val("micro.done", dtype=ir.DataType.FLOAT, shape=("done", *each))
        size = _constant(body, "micro.size", np.array([self.size], np.int64))
        zero = _constant(body, "micro.zero", np.array([0], np.int64))
        first = next(iter(body))

        def before(kind: str, inputs: list[ir.Value], name: str) -> ir.Value:
            node = ir.node(kind, inputs, name=name)
            node.outputs[0].name = f"{name}.out"
            body.insert_before(first, node)
            return node.outputs[0]

        start = before("Mul", [number, size], "micro.start")
        end = before("Add", [start, size], "micro.end")
        part = before("Slice", [outer_images, start, end, zero], "micro.images")
        ir.convenience.replace_all_uses_with(images, part)
        inner = f"{logits.name}.part"
        outer_name, logits.name = logits.name, inner
        appended = ir.node("Concat", [done, logits], {"axis": 0}, name="micro.append")
        appended.outputs[0].name = "micro.appended"
        appended.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        appended.outputs[0].shape = ir.Shape(["appended", *each])
        still = ir.node("Identity", [go_on], name="micro.still")
        still.outputs[0].name = "micro.still_going"
        still.outputs[0].type, still.outputs[0].shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
        body.append(appended)
        body.append(still)
        body.inputs[:] = [number, go_on, done]
        body.outputs[:] = [still.outputs[0], appended.outputs[0]]
        opsets = dict(body.opset_imports)

        # The outer graph: how many groups, and the loop.
        nodes: list[ir.Node] = []
        constants: list[ir.Value] = []

        def outside(kind: str, inputs: list[ir.Value | None], name: str, **attributes: object) -> ir.Value:
            node = ir.node(kind, inputs, attributes, name=name)  # type: ignore[arg-type]
            node.outputs[0].name = f"{name}.out"
            nodes.append(node)
            return node.outputs[0]

        def constant(name: str, array: np.ndarray) -> ir.Value:
            constants.append(constant_value(name, array))
            return constants[-1]

        batch = outside("Shape", [outer_images], "groups.batch", start=0, end=1)
        padded = outside(
            "Add", [batch, constant("groups.round_up", np.array([self.size - 1], np.int64))], "groups.padded"
        )
        groups = outside("Div", [padded, constant("groups.size", np.array([self.size], np.int64))], "groups.count")
        groups = outside("Squeeze", [groups], "groups")
        nothing = constant("groups.no_logits", np.zeros((0, *each), np.float32))
        result = outside("Loop", [groups, None, nothing], "micro_batches", body=body)
        result.name = outer_name
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", *each])
        model.graph = ir.Graph(
            [outer_images], [result], nodes=nodes, initializers=constants, opset_imports=opsets, name="micro_batched"
        )
        return PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """The network is in the loop's body, and the interface is as it was."""
        if [node.op_type for node in model.graph][-1] != "Loop" or len(model.graph.inputs) != 1:
            raise PostconditionError("no loop around the network")


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = constant_value(name, array)
    graph.register_initializer(value)
    return value
