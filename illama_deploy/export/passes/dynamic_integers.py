"""Quantize activations at run time, token by token, for ONNX Runtime's CPU kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

from ...formats import IntType
from ...model.network import Network
from ...quant.modules import QuantWeighted
from ...quant.network import quantized_modules
from ..float_graph import SITE, site_rows
from ..values import constant_value

__all__ = ["DynamicIntegers"]

RUNTIME_DOMAIN = "com.microsoft"


class DynamicIntegers(InPlacePass):
    """Give every GEMM of a site with dynamic activations an integer kernel, and each token its own step size.

        s = max |x| / qmax of each row;  q = QuantizeLinear(x / s, 1, 128);
        y = MatMulIntegerToFloat(q, w) · s + bias

    The standard DynamicQuantizeLinear takes one range for the whole tensor: an image's result would depend on the
    others in its batch. MatMulIntegerToFloat is ONNX Runtime's own op; the fusion that makes it from standard ones
    needs a scalar activation scale.
    """

    def __init__(self, network: Network) -> None:
        self.sites = {
            name: module
            for name, module in quantized_modules(network)
            if module.format.dynamic and isinstance(module, QuantWeighted)
        }

    def call(self, model: ir.Model) -> PassResult:
        self.graph = graph = model.graph
        self.tokens: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        for node in list(graph):
            if (module := self.sites.get(node.metadata_props.get(SITE, ""))) is None:
                continue
            rows = site_rows(node)
            x, name, before = node.inputs[0], node.name or "", node
            assert x is not None
            assert isinstance(module.activations, IntType)
            q, step = self._quantized(x, module.activations, before)
            weight = np.ascontiguousarray(module.weight_q.flatten(1)[rows].T.numpy())
            operands = [
                q,
                self._constant(f"{name}.weight.integers", weight),
                self._constant("one", np.float32(1)),
                self._constant(f"{name}.weight.scale", module.weight_scale[rows].numpy()),
                self._constant("zero.uint8", np.uint8(128)),
            ]
            y = self._op("MatMulIntegerToFloat", operands, f"{name}.integers", before, domain=RUNTIME_DOMAIN)
            gemm = y.producer()
            assert gemm is not None
            gemm.metadata_props.update(node.metadata_props)
            y = self._op("Mul", [y, step], f"{name}.scaled", before)
            old = node.outputs[0]
            if module.bias is not None:
                bias = self._constant(f"{name}.bias.float", module.bias[rows].numpy())
                y = self._op("Add", [y, bias], f"{name}.add", before)
            y.type, y.shape = old.type, old.shape
            ir.convenience.replace_all_uses_with(old, y, replace_graph_outputs=True)
            y.name = old.name
            graph.remove(node, safe=True)
        if self.sites:
            graph.opset_imports[RUNTIME_DOMAIN] = 1
        return PassResult(model, bool(self.sites))

    def ensures(self, model: ir.Model) -> None:
        """No float GEMM of such a site is left."""
        for node in model.graph:
            if node.metadata_props.get(SITE) in self.sites and node.op_type != "MatMulIntegerToFloat":
                raise PostconditionError(f"{node.name} is still float")

    def _quantized(self, x: ir.Value, dtype: IntType, before: ir.Node) -> tuple[ir.Value, ir.Value]:
        """Integers of `x` and the step size of each row; GEMMs that share `x` share them."""
        if x not in self.tokens:
            name = x.name or ""
            last = self._constant("ints.-1.axis", np.array([-1], np.int64))
            magnitudes = self._op("Abs", [x], f"{name}.magnitudes", before)
            largest = self._op("ReduceMax", [magnitudes, last], f"{name}.largest", before)
            # `affine.scale_of` in two operators: no step is subnormal. A row of zeros gets another step than there,
            # and the same zeros. Small operators cost more than they compute, and there are some fifty of these.
            qmax = np.float32(dtype.qmax)
            least = self._constant(f"least.{dtype.bits}", np.finfo(np.float32).tiny * qmax)
            largest = self._op("Max", [largest, least], f"{name}.span", before)
            step = self._op("Div", [largest, self._constant(f"qmax.{dtype.bits}", qmax)], f"{name}.step", before)
            scaled = self._op("Div", [x, step], f"{name}.in_steps", before)
            parameters = [self._constant("one", np.float32(1)), self._constant("zero.uint8", np.uint8(128))]
            self.tokens[x] = self._op("QuantizeLinear", [scaled, *parameters], f"{name}.tokens", before), step
        return self.tokens[x]

    def _constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        if name not in self.graph.initializers:
            self.graph.register_initializer(constant_value(name, array))
        return self.graph.initializers[name]

    def _op(self, kind: str, inputs: list[ir.Value], name: str, before: ir.Node, *, domain: str = "") -> ir.Value:
        node = ir.node(kind, inputs, domain=domain, name=name)
        node.outputs[0].name = f"{name}.out"
        self.graph.insert_before(before, node)
        return node.outputs[0]
