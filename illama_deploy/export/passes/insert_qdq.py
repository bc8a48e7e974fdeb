"""Quantize the GEMMs of a float graph: Q/DQ on their inputs, integers for their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

from ...model.illama import Illama
from ...quant.modules import QuantConv2d, QuantLinear, QuantMatMul, QuantModule
from ...quant.network import quantized_modules
from ..float_graph import ROWS, SITE
from ..values import constant_value

__all__ = ["ActivationSpelling", "InsertQDQ"]


@dataclass(frozen=True)
class ActivationSpelling:
    """How a target wants the same symmetric activation integers written.

    Attributes:
        unsigned: U8 with zero point 128 (ONNX Runtime's CPU kernels), or S8 with zero point 0.
        integer_bias: bias as DequantizeLinear(int32), or as the float values that it stands for.
    """

    unsigned: bool
    integer_bias: bool


class InsertQDQ(InPlacePass):
    """Give every GEMM of a quantized site its Q/DQ pairs, weights and bias as the integers of the torch network.

    1. An activation input x becomes DequantizeLinear(QuantizeLinear(x)); GEMMs that share x and the scale
       share the pair.
    2. A weight becomes DequantizeLinear(int8, per output channel).
    3. A bias becomes DequantizeLinear(int32, scale s_x·s_w), or stays float (see `ActivationSpelling`).
    4. The second operand of a product of two activations is S8 in any spelling: U8×S8 is what kernels take.
    """

    def __init__(self, network: Illama, spelling: ActivationSpelling) -> None:
        self.sites: dict[str, QuantModule] = dict(quantized_modules(network))
        self.spelling = spelling

    def requires(self, model: ir.Model) -> None:
        """Every quantized site has a GEMM in the graph."""
        present = {node.metadata_props.get(SITE) for node in model.graph}
        if absent := self.sites.keys() - present:
            raise PreconditionError(f"no GEMM for {', '.join(sorted(absent))}")

    def call(self, model: ir.Model) -> PassResult:
        self.graph = model.graph
        self.pairs: dict[tuple[ir.Value, float, bool], ir.Value] = {}
        for node in list(model.graph):
            module = self.sites.get(node.metadata_props.get(SITE, ""))
            if isinstance(module, QuantMatMul):
                self._activation(node, 0, float(module.a_scale), self.spelling.unsigned)
                self._activation(node, 1, float(module.b_scale), False)
            elif isinstance(module, QuantLinear | QuantConv2d):
                self._weighted(node, module)
        return PassResult(model, bool(self.sites))

    def ensures(self, model: ir.Model) -> None:
        """Both operands of every quantized GEMM come from a DequantizeLinear."""
        for node in model.graph:
            if node.metadata_props.get(SITE) in self.sites:
                for operand in node.inputs[:2]:
                    producer = operand.producer() if operand is not None else None
                    if producer is None or producer.op_type != "DequantizeLinear":
                        raise PostconditionError(f"{node.name} has an operand that is not quantized")

    def _weighted(self, node: ir.Node, module: QuantLinear | QuantConv2d) -> None:
        start, stop = map(int, node.metadata_props[ROWS].split(":"))
        self._activation(node, 0, float(module.input_scale), self.spelling.unsigned)
        name = node.name or ""
        weight = module.weight_q.flatten(1)[start:stop].T.contiguous().numpy()
        scale = module.weight_scale[start:stop].numpy()
        self._constant(node, 1, f"{name}.weight", weight, scale, axis=1)
        if module.bias_q is not None and self.spelling.integer_bias:
            bias, step = module.bias_q[start:stop].numpy(), module.output_scale[start:stop].numpy()
            self._constant(node, 2, f"{name}.bias", bias, step, axis=0)

    def _activation(self, node: ir.Node, position: int, scale: float, unsigned: bool) -> None:
        x = node.inputs[position]
        assert x is not None
        key = (x, scale, unsigned)
        if key not in self.pairs:
            dtype, zero = (np.uint8, 128) if unsigned else (np.int8, 0)
            parameters = [
                self._initializer(f"{x.name}.scale", np.float32(scale)),
                self._initializer(f"zero.{np.dtype(dtype).name}", dtype(zero)),
            ]
            quantized = self._node("QuantizeLinear", [x, *parameters], f"{x.name}.quantize", node)
            self.pairs[key] = self._node("DequantizeLinear", [quantized, *parameters], f"{x.name}.dequantize", node)
        node.replace_input_with(position, self.pairs[key])

    def _constant(
        self, node: ir.Node, position: int, name: str, integers: np.ndarray, scale: np.ndarray, *, axis: int
    ) -> None:
        replaced = node.inputs[position]
        assert replaced is not None
        # The zero point is written out though 0 is its default: ONNX Runtime makes no QGemm without it.
        zero = np.zeros(scale.shape, integers.dtype)
        inputs = [
            self._initializer(f"{name}.integers", np.ascontiguousarray(integers)),
            self._initializer(f"{name}.scale", np.ascontiguousarray(scale)),
            self._initializer(f"zero.{zero.dtype.name}.{zero.size}", zero),
        ]
        node.replace_input_with(position, self._node("DequantizeLinear", inputs, name, node, axis=axis))
        if replaced.name is not None and not replaced.uses():
            self.graph.initializers.pop(replaced.name, None)

    def _initializer(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        """Register a constant; the same name with another value gets a number of its own."""
        free, count = name, 1
        while free in self.graph.initializers:
            existing = self.graph.initializers[free].const_value
            if existing is not None and np.array_equal(existing.numpy(), array):
                return self.graph.initializers[free]
            count += 1
            free = f"{name}.{count}"
        value = constant_value(free, array)
        self.graph.register_initializer(value)
        return value

    def _node(self, kind: str, inputs: list[ir.Value], name: str, before: ir.Node, **attributes: int) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}.out"
        self.graph.insert_before(before, node)
        return node.outputs[0]
