"""Drop what no output needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

__all__ = ["RemoveDead"]


class RemoveDead(InPlacePass):
    """Remove nodes whose outputs nobody reads, then initializers that nobody reads."""

    def call(self, model: ir.Model) -> PassResult:
        graph = model.graph
        modified = False
        for node in reversed(list(graph)):
            if not any(output.uses() or output.is_graph_output() for output in node.outputs):
                graph.remove(node, safe=True)
                modified = True
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]
                modified = True
        return PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Everything left is read."""
        for value in model.graph.initializers.values():
            if not value.uses() and not value.is_graph_output():
                raise PostconditionError(f"{value.name} is read by nobody")
