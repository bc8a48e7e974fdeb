"""Turn a float32 graph into a float16 one whose norms stay float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

from ..values import constant_value

__all__ = ["HalfPrecision"]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
IN_FLOAT32 = {"RMSNormalization", "QuantizeLinear", "Resize"}


class HalfPrecision(InPlacePass):
    """Make every float16 but the graph's interface and the inside of RMSNorm.

    1. Initializers become float16, the scales of Q/DQ among them (a Resize's factors must stay); a value beyond the
       range of float16 is an error.
    2. RMSNormalization computes in float32, between two casts (its mean of squares overflows half precision).
    3. Images are cast when they come in, logits when they go out.
    4. Where images or a norm's output are quantized, that is done in float32, with the exact step size: rounding to
       float16 in between would turn some of the integers.
    """

    def call(self, model: ir.Model) -> PassResult:
        graph = model.graph
        norms = [node for node in graph if node.op_type == "RMSNormalization"]
        exact = [node for node in graph if node.op_type == "QuantizeLinear" and _is_float32(node.inputs[0], graph)]
        for node in exact:
            node.replace_input_with(1, _float32_copy(node.inputs[1], graph))
        kept = {node.inputs[1] for node in (*norms, *exact)}
        kept |= {node.inputs[2] for node in graph if node.op_type == "Resize"}
        for value in graph.initializers.values():
            if value.dtype == FLOAT and value not in kept and value.const_value is not None:
                array = value.const_value.numpy()
                with np.errstate(over="ignore"):  # looked at right below
                    half = array.astype(np.float16)
                if not np.isfinite(half).all():
                    raise PostconditionError(f"{value.name} does not fit into float16")
                # A step size must not vanish; the smallest float16 is far below any that matters.
                if value.name is not None and value.name.endswith(".scale"):
                    half = np.where(array > 0, np.maximum(half, np.finfo(np.float16).smallest_subnormal), half)
                value.const_value = ir.tensor(half, name=value.name)
                value.dtype = HALF
        first = graph[0]
        for images in graph.inputs:
            if readers := [(node, position) for node, position in images.uses() if node not in exact]:
                cast = _cast(images, HALF)
                graph.insert_before(first, cast)
                for node, position in readers:
                    node.replace_input_with(position, cast.outputs[0])
        for node in norms:
            x, y = node.inputs[0], node.outputs[0]
            assert x is not None
            before = _cast(x, FLOAT, node.name or "norm")
            graph.insert_before(node, before)
            node.replace_input_with(0, before.outputs[0])
            if readers := [(reader, position) for reader, position in y.uses() if reader not in exact]:
                after = _cast(y, HALF)
                graph.insert_after(node, after)
                for reader, position in readers:
                    reader.replace_input_with(position, after.outputs[0])
        for position, logits in enumerate(graph.outputs):
            name, shape = logits.name, logits.shape
            logits.name, logits.type = f"{name}.half", ir.TensorType(HALF)
            cast = _cast(logits, FLOAT)
            cast.outputs[0].name, cast.outputs[0].shape = name, shape
            cast.outputs[0].type = ir.TensorType(FLOAT)
            graph.append(cast)
            graph.outputs[position] = cast.outputs[0]
        return PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Only norms, their quantization and factors hold float32 constants; no cast stands between a DequantizeLinear
        and a GEMM.
        """
        for value in model.graph.initializers.values():
            if value.dtype == FLOAT and any(n.op_type not in IN_FLOAT32 for n in value.consumers()):
                raise PostconditionError(f"{value.name} is still float32")
        for node in model.graph:
            if node.op_type == "DequantizeLinear" and any(n.op_type == "Cast" for n in node.outputs[0].consumers()):
                raise PostconditionError(f"a cast follows {node.name}")


def _is_float32(value: ir.Value | None, graph: ir.Graph) -> bool:
    """Whether a value of the float graph stays float32: what comes in, and what a norm gives."""
    producer = value.producer() if value is not None else None
    return value in graph.inputs or (producer is not None and producer.op_type == "RMSNormalization")


def _float32_copy(scale: ir.Value | None, graph: ir.Graph) -> ir.Value:
    """An initializer of the same value that stays float32, since DequantizeLinear needs the other as float16."""
    assert scale is not None and scale.const_value is not None
    name = f"{scale.name}.float32"
    if name not in graph.initializers:
        graph.register_initializer(constant_value(name, scale.const_value.numpy()))
    return graph.initializers[name]


def _cast(value: ir.Value, dtype: ir.DataType, suffix: str = "") -> ir.Node:
    name = f"{value.name}.{suffix + '.' if suffix else ''}{dtype.name.lower()}"
    node = ir.node("Cast", [value], {"to": dtype.value}, name=name)
    node.outputs[0].name = f"{name}.out"
    return node
