"""Edits of ONNX files, as protobuf: another graph, other constants, other names, other metadata."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from .draw import Draw, edit
from .edit_json import strange, write

__all__ = ["ONNX"]


def onnx_constant(content: bytes, draw: Draw) -> bytes:
    """An initializer left out, of another shape, type or value, or outside of the file."""
    model = onnx.load_from_string(content)
    graph = model.graph
    number = draw.rng.randrange(len(graph.initializer))
    tensor = graph.initializer[number]
    what = draw.rng.randrange(10)
    if what == 0:
        del graph.initializer[number]
    elif what == 1:
        tensor.dims[:] = draw.rng.choice(
            ([], [0], [-1], [1], [2**40], [*tensor.dims, 1], list(tensor.dims)[::-1], [1 << 20] * 3)
        )
    elif what == 2:
        tensor.data_type = draw.rng.choice((0, 1, 2, 3, 7, 8, 9, 10, 11, 16, 21, 22, 99))
    elif what == 3:
        tensor.raw_data = draw.rng.choice((b"", tensor.raw_data[:-1], tensor.raw_data * 2, bytes(len(tensor.raw_data))))
    elif what == 4:
        damaged = bytearray(tensor.raw_data or b"\0")
        damaged[draw.rng.randrange(len(damaged))] ^= 1 << draw.rng.randrange(8)
        tensor.raw_data = bytes(damaged)
    elif what == 5:
        tensor.name = draw.rng.choice(("", "x", graph.initializer[0].name, graph.node[-1].output[0]))
    elif what == 6:
        graph.initializer.append(tensor)
    elif what == 7:
        tensor.CopyFrom(draw.rng.choice(graph.initializer))
    else:
        place = draw.rng.choice((str(draw.trap), "../trap", "model.onnx", "/etc/passwd", "", "gone.data", "../../x"))
        onnx.external_data_helper.set_external_data(
            tensor, place, draw.rng.choice((0, 2**40)), draw.rng.choice((4, 2**40))
        )
        tensor.ClearField("raw_data")
    return model.SerializeToString()


def onnx_node(content: bytes, draw: Draw) -> bytes:
    """A node left out, repeated, of another kind or with other attributes and names."""
    model = onnx.load_from_string(content)
    graph = model.graph
    number = draw.rng.randrange(len(graph.node))
    node = graph.node[number]
    names = [name for other in graph.node for name in (*other.input, *other.output)] + ["", "x"]
    what = draw.rng.randrange(9)
    if what == 0:
        del graph.node[number]
    elif what == 1:
        graph.node.insert(draw.rng.randrange(len(graph.node)), node)
    elif what == 2:
        node.op_type = draw.rng.choice(("Add", "Identity", "Gemm", "", "Unknown", "Softmax", "Loop", "Tile", "Expand"))
    elif what == 3 and node.input:
        node.input[draw.rng.randrange(len(node.input))] = draw.rng.choice(names)
    elif what == 4 and node.output:
        node.output[draw.rng.randrange(len(node.output))] = draw.rng.choice(names)
    elif what == 5 and node.attribute:
        attribute = draw.rng.choice(node.attribute)
        value: Any = draw.rng.choice((0, -1, 1, 7, 2**62, 1.5, float("nan"), "text", [1, 2], [0], [2**40]))
        attribute.CopyFrom(helper.make_attribute(attribute.name, value))
    elif what == 6:
        node.attribute.append(helper.make_attribute(draw.rng.choice(("axis", "x", "perm")), 3))
    elif what == 7:
        node.domain = draw.rng.choice(("", "com.microsoft", "ai.onnx.ml", "x"))
    else:
        draw.rng.shuffle(order := list(graph.node))
        copies = [onnx.NodeProto.FromString(other.SerializeToString()) for other in order]
        del graph.node[:]
        graph.node.extend(copies)
    return model.SerializeToString()


def onnx_faces(content: bytes, draw: Draw) -> bytes:
    """Other inputs and outputs, versions, functions."""
    model = onnx.load_from_string(content)
    graph = model.graph
    face = draw.rng.choice((*graph.input, *graph.output))
    what = draw.rng.randrange(9)
    if what == 0:
        face.name = draw.rng.choice(("", "x", graph.node[0].output[0], graph.initializer[0].name))
    elif what == 1:
        face.type.tensor_type.elem_type = draw.rng.choice((0, 2, 7, 8, 10, 11, 99))
    elif what == 2:
        dims = face.type.tensor_type.shape.dim
        if dims:
            draw.rng.choice(dims).dim_value = draw.rng.choice((0, -1, 1, 2, 2**31, 2**62))
    elif what == 3:
        face.type.tensor_type.ClearField("shape")
    elif what == 4:
        del draw.rng.choice((graph.input, graph.output))[:]
    elif what == 5:
        graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    elif what == 6:
        graph.output.append(helper.make_tensor_value_info(graph.node[0].output[0], TensorProto.FLOAT, None))
    elif what == 7:
        model.opset_import[0].version = draw.rng.choice((0, 1, 7, 99, 2**40))
    else:
        model.ir_version = draw.rng.choice((0, 1, 3, 99, 2**40))
    return model.SerializeToString()


def onnx_metadata(content: bytes, draw: Draw) -> bytes:
    """A metadata entry left out, written twice, or with another value."""
    model = onnx.load_from_string(content)
    entries = model.metadata_props
    number = draw.rng.randrange(len(entries))
    what = draw.rng.randrange(5)
    if what == 0:
        del entries[number]
    elif what == 1:
        entries.append(entries[number])
    elif what == 2:
        entries[number].key = draw.rng.choice(("", "x", entries[0].key, entries[number].key + "x"))
    else:
        value = entries[number].value
        entries[number].value = draw.rng.choice((
            "", "{", "[" * 50_000, value + value, value[:-1], value[::-1], "NaN", "x" * 1_000_000,
            *(write(strange(draw), indent=None).decode() for _ in range(8)), *_numbers(value, draw),
        ))  # fmt: skip
    return model.SerializeToString()


def onnx_field(content: bytes, draw: Draw) -> bytes:
    """Flips before the first constant's values, where protobuf's tags and lengths are dense."""
    size = min(len(content), 4096)
    damaged = bytearray(content[:size])
    for _ in range(draw.rng.randint(1, 3)):
        damaged[draw.rng.randrange(size)] = draw.rng.choice((0, 1, 0x08, 0x0A, 0x12, 0x7F, 0x80, 0xFF))
    return bytes(damaged) + content[size:]


def _numbers(value: str, draw: Draw) -> list[str]:
    """The same text with some digit another."""
    digits = [i for i, letter in enumerate(value) if letter.isdigit()]
    changed = []
    for _ in range(6 if digits else 0):
        at = draw.rng.choice(digits)
        changed.append(value[:at] + draw.rng.choice(("0", "9", "-1", "999999999", "1e400", "0.5")) + value[at + 1 :])
    return changed


ONNX = tuple(map(edit, (onnx_constant, onnx_constant, onnx_node, onnx_faces, onnx_metadata, onnx_metadata, onnx_field)))
