"""Quantize the GEMMs of a float graph: Q/DQ on their inputs, integers for their weights."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

from ...formats import FloatType, Format, NumberType
from ...model.network import Network
from ...quant.modules import QuantMatMul, QuantModule, QuantReLU, QuantWeighted
from ...quant.network import quantized_modules
from ..float_graph import SITE, site_rows
from ..values import constant_value

__all__ = ["ActivationSpelling", "InsertQDQ"]


@dataclass(frozen=True)
class ActivationSpelling:
    """How a target wants the same symmetric activation integers written.

    Attributes:
        unsigned: U8 with zero point 128 (ONNX Runtime's CPU kernels), or S8 with zero point 0.
        integer_bias: bias as DequantizeLinear(int32), or as the float values that it stands for.
        unsigned_maps: U8 for what convolutions read.
        output_integers: quantize what a convolution gives before its ReLU, or behind it.
        blocks: the sizes of blocks that INT4 weights may have, the best first, where INT4 is read by blocks alone:
            a channel's step size is then repeated for each of its blocks, and weights that no size cuts into several
            are stored as INT8, as are those that integers are multiplied with. Any INT4 where empty.
    """

    unsigned: bool
    integer_bias: bool
    unsigned_maps: bool = False
    output_integers: bool = False
    blocks: tuple[int, ...] = ()


class InsertQDQ(InPlacePass):
    """Give every GEMM of a quantized site its Q/DQ pairs, weights and bias as the integers of the torch network.

    1. An activation input x becomes DequantizeLinear(QuantizeLinear(x)); GEMMs that share x and the scale
       share the pair. Fewer than 8 bits are clipped first and then held in 8. FP8 is FLOAT8E4M3FN.
    2. A weight becomes DequantizeLinear(int8, per output channel). One of up to 4 bits is stored as INT4, and
       cast to INT8 where integers are multiplied: ONNX Runtime folds that cast when it loads the file, so 4-bit
       weights run on its 8-bit kernels.
    3. A weight-only site keeps x; its weight becomes DequantizeLinear(INT4, by blocks of inputs), and a Gemm
       becomes MatMul and Add, which is what block kernels (MatMulNBits) are made from. What a target reads of INT4
       says `ActivationSpelling.blocks`.
    4. A bias becomes DequantizeLinear(int32, scale s_x·s_w), or stays float (see `ActivationSpelling`).
    5. The values of a ReLU behind a convolution get a pair, too. ONNX Runtime needs it between the two, to make a
       QLinearConv, whose output is integers; others fuse convolution, ReLU and the pair behind it. The integers are
       the same, since rounding commutes with ReLU.
    6. The second operand of a product of two activations is S8 in any spelling: U8×S8 is what kernels take.

    Sites with dynamic activations are left to `DynamicIntegers`.
    """

    def __init__(self, network: Network, spelling: ActivationSpelling) -> None:
        modules = dict(quantized_modules(network))
        self.sites: dict[str, QuantModule] = {name: m for name, m in modules.items() if not m.format.dynamic}
        self.spelling = spelling

    def requires(self, model: ir.Model) -> None:
        """Every quantized site has a GEMM in the graph."""
        present = {node.metadata_props.get(SITE) for node in model.graph}
        if absent := self.sites.keys() - present:
            raise PreconditionError(f"no GEMM for {', '.join(sorted(absent))}")

    def call(self, model: ir.Model) -> PassResult:
        self.graph = model.graph
        self.pairs: dict[tuple[ir.Value, float, NumberType, bool], ir.Value] = {}
        for node in list(model.graph):
            module = self.sites.get(node.metadata_props.get(SITE, ""))
            if isinstance(module, QuantMatMul):
                self._activation(node, 0, float(module.a_scale), module.activations, self.spelling.unsigned)
                self._activation(node, 1, float(module.b_scale), module.activations, False)
            elif isinstance(module, QuantReLU):
                self._rectified(node, module)
            elif isinstance(module, QuantWeighted):
                self._weighted(node, module)
        return PassResult(model, bool(self.sites))

    def ensures(self, model: ir.Model) -> None:
        """Every operand of a quantized GEMM that the format quantizes comes from a DequantizeLinear."""
        for node in model.graph:
            module = self.sites.get(node.metadata_props.get(SITE, ""))
            if module is None or (isinstance(module, QuantReLU) and not self.spelling.output_integers):
                continue
            for operand in node.inputs[0 if module.format.is_static else 1 : 2]:
                producer = operand.producer() if operand is not None else None
                if producer is None or producer.op_type != "DequantizeLinear":
                    raise PostconditionError(f"{node.name} has an operand that is not quantized")

    def _rectified(self, node: ir.Node, module: QuantReLU) -> None:
        pair = float(module.scale), module.activations, self.spelling.unsigned
        if self.spelling.output_integers:
            self._activation(node, 0, *pair)
            return
        for reader, position in node.outputs[0].uses():
            self._activation(reader, position, *pair)

    def _weighted(self, node: ir.Node, module: QuantWeighted) -> None:
        rows = site_rows(node)
        name, format_ = node.name or "", module.format
        if module.input_scale is not None:
            scale = float(module.input_scale)
            unsigned = self.spelling.unsigned_maps if node.op_type == "Conv" else self.spelling.unsigned
            self._activation(node, 0, scale, module.activations, unsigned)
        elif node.op_type == "Gemm":
            node = self._split_bias(node)
        weight_q, step = module.weight_q[rows], module.weight_scale[rows].numpy()
        is_conv = node.op_type == "Conv"
        if not is_conv:  # a GEMM takes [in, out]
            weight_q = weight_q.flatten(1).T.contiguous()
        if isinstance(format_.weights, FloatType):
            weight = weight_q.float().numpy().astype(ml_dtypes.float8_e4m3fn)
        else:
            step, four_bits = self._spell(step, weight_q.shape[0], format_)
            weight = weight_q.numpy().astype(ml_dtypes.int4 if four_bits else np.int8)
        self._constant(
            node, 1, f"{name}.weight", weight, step.T, axis=int(step.ndim == 1 and not is_conv), wide=format_.is_static
        )
        if module.bias_q is not None and self.spelling.integer_bias:
            bias, step = module.bias_q[rows].numpy(), module.output_scale[rows].numpy()
            self._constant(node, 2, f"{name}.bias", bias, step, axis=0, wide=False)

    def _spell(self, step: np.ndarray, inputs: int, format_: Format) -> tuple[np.ndarray, bool]:
        """Step sizes of a weight as they are written, and whether its integers are INT4."""
        if format_.weights.bits > 4 or not self.spelling.blocks:
            return step, format_.weights.bits <= 4
        if format_.activations is not None:
            return step, False
        if step.ndim == 2:
            return step, True
        # One block is no block: TensorRT unpacks such weights while it builds, and keeps them as float16.
        size = next((size for size in self.spelling.blocks if inputs % size == 0 and inputs > size), None)
        return (step, False) if size is None else (np.repeat(step[:, None], inputs // size, 1), True)

    def _split_bias(self, gemm: ir.Node) -> ir.Node:
        """Gemm(x, w, b) to Add(MatMul(x, w), b); the MatMul is returned."""
        bias = gemm.inputs[2]
        assert bias is not None
        product = ir.node("MatMul", gemm.inputs[:2], name=gemm.name, metadata_props=dict(gemm.metadata_props))
        product.outputs[0].name = f"{gemm.name}.product"
        add = ir.node("Add", [product.outputs[0], bias], name=f"{gemm.name}.add")
        added, old = add.outputs[0], gemm.outputs[0]
        self.graph.insert_before(gemm, [product, add])
        added.name, added.type, added.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, added, replace_graph_outputs=True)
        self.graph.remove(gemm, safe=True)
        return product

    def _activation(self, node: ir.Node, position: int, scale: float, dtype: NumberType, unsigned: bool) -> None:
        x = node.inputs[position]
        assert x is not None
        key = (x, scale, dtype, unsigned)
        if key not in self.pairs:
            others = sum(known is x for known, *_ in self.pairs)  # of sites that quantize x in another way
            name = f"{x.name}.{others + 1}" if others else f"{x.name}"
            stored: type[np.generic]
            if isinstance(dtype, FloatType):
                stored, zero = ml_dtypes.float8_e4m3fn, 0
            else:
                stored, zero = (np.uint8, 128) if unsigned else (np.int8, 0)
            parameters = [
                self._initializer(f"{name}.scale", np.float32(scale)),
                self._initializer(f"zero.{np.dtype(stored).name}", np.array(zero, stored)),
            ]
            value = x
            if dtype.bits < 8:
                bounds = [
                    self._initializer(f"{name}.{end}", np.float32(scale) * np.float32(bound))
                    for end, bound in (("low", dtype.qmin), ("high", dtype.qmax))
                ]
                value = self._node("Clip", [x, *bounds], f"{name}.clip{dtype.bits}", node)
            quantized = self._node("QuantizeLinear", [value, *parameters], f"{name}.quantize", node)
            self.pairs[key] = self._node("DequantizeLinear", [quantized, *parameters], f"{name}.dequantize", node)
        node.replace_input_with(position, self.pairs[key])

    def _constant(
        self, node: ir.Node, position: int, name: str, integers: np.ndarray, scale: np.ndarray, *, axis: int, wide: bool
    ) -> None:
        """Replace an operand by dequantized integers; `wide`: 4-bit ones are cast to INT8 first."""
        replaced = node.inputs[position]
        assert replaced is not None
        value = self._initializer(f"{name}.integers", np.ascontiguousarray(integers))
        stored = integers.dtype
        if stored == ml_dtypes.int4 and wide:
            value = self._node("Cast", [value], f"{name}.int8", node, to=ir.DataType.INT8.value)
            stored = np.dtype(np.int8)
        # The zero point is written out though 0 is its default: ONNX Runtime makes no QGemm without it. Each weight has
        # its own: where sums of U8×S8 would saturate, ONNX Runtime rewrites both, once for every use.
        zero = np.zeros(scale.shape, stored)
        inputs = [
            value,
            self._initializer(f"{name}.scale", np.ascontiguousarray(scale)),
            self._initializer(f"{name}.zero", zero),
        ]
        attributes = {"axis": axis}
        if scale.ndim == 2:
            attributes["block_size"] = integers.shape[axis] // scale.shape[axis]
        node.replace_input_with(position, self._node("DequantizeLinear", inputs, name, node, **attributes))
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
