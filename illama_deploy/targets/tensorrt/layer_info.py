"""Layers × precision of an engine: what the engine inspector says of it, or what was asked for in the network."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["inspected_layers", "network_layers"]

#: Names of a package's data types, as everybody else calls them.
DTYPES = {"HALF": "float16", "FLOAT": "float32", "BF16": "bfloat16", "FP8": "float8", "FP4": "float4"}
GEMMS = ("MATRIX_MULTIPLY", "CONVOLUTION")
#: Layers that hand on values as they are: a GEMM behind one still fuses with the dequantization before it.
MOVES = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")
#: Types of shapes and masks, which are no arithmetic of the network.
BOOKKEEPING = ("int64", "int32", "bool")


def network_layers(network: Any) -> list[dict[str, str]]:
    """Name, type and precision of each computing layer of a parsed INetworkDefinition, in its order.

    Precision is the type of a layer's output; of a GEMM, the type that its operands are stored in, which is that
    before a DequantizeLinear: `int8`, or `float16 x int4` where only the weight is quantized.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    rows = []
    for layer in layers:
        kind = layer.type.name
        precision = _dtype(layer.get_output(0))
        if kind in GEMMS:
            operands = dict.fromkeys(_stored(layer.get_input(i), makers) for i in range(min(2, layer.num_inputs)))
            precision = " x ".join(operands)
        if kind != "CONSTANT" and precision not in BOOKKEEPING:
            rows.append({"name": layer.name, "type": kind, "precision": precision})
    return rows


def inspected_layers(information: str) -> list[dict[str, str]]:
    """Name, type and precision of each layer that an engine really runs, from the engine inspector's JSON.

    Precision is the inspector's own wording: formats of the inputs → those of the outputs.
    """
    rows = []
    for layer in json.loads(information).get("Layers", []):
        if isinstance(layer, str):  # an engine that was built without detailed verbosity
            rows.append({"name": layer, "type": "unknown", "precision": "unknown"})
            continue
        sides = (
            ", ".join(dict.fromkeys(tensor.get("Format/Datatype", "unknown") for tensor in layer.get(side, [])))
            for side in ("Inputs", "Outputs")
        )
        precision = " → ".join(side for side in sides if side)
        rows.append(
            {"name": layer["Name"], "type": layer.get("LayerType", "unknown"), "precision": precision or "unknown"}
        )
    return rows


def _stored(tensor: Any, makers: dict[str, Any]) -> str:
    """Type of a GEMM's operand before it was dequantized, else its own."""
    maker = makers.get(tensor.name)
    while maker is not None and maker.type.name in MOVES:
        maker = makers.get(maker.get_input(0).name)
    if maker is not None and maker.type.name == "DEQUANTIZE":
        return _dtype(maker.get_input(0))
    return _dtype(tensor)


def _dtype(tensor: Any) -> str:
    name: str = tensor.dtype.name
    return DTYPES.get(name, name.lower())
