"""Layer by layer: an exported graph in its runtime against the network in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..export.batches import RunFile, proof_images
from ..export.float_graph import OUTPUT, SITE, site_rows
from ..model.network import Network
from ..quant import QuantReLU
from .parity import IMAGES, PARITY_DB, LayerParity, Parity, agreement, torch_outputs

__all__ = ["measure_graph_parity"]


def measure_graph_parity(
    network: Network,
    graph: ir.Model,
    model: ir.Model,
    load: Callable[[Path, bool], RunFile],
    runtime: str,
    images: Tensor | None = None,
) -> Parity:
    """Run a network in torch and its exported graph in a runtime, and compare every GEMM's output.

    Args:
        network: what the target computes.
        graph: its float graph, before any pass.
        model: the same in the target's form, each image by itself (no batching passes); it is changed.
        load: opens a file, of which it is told whether it has FP8 operands.
        runtime: name of what `load` runs files in.
        images: [B, C, H, W], normalised; 3 of seeded noise, smooth and sharp, where not given.

    Raises:
        RuntimeUnavailableError: the runtime is not installed, or too old.
        ExportError: the runtime refuses the graph.
    """
    images = torch.from_numpy(proof_images(network.config, IMAGES)) if images is None else images
    # A convolution is watched behind its ReLU: were its own result asked for, it would not stay an integer one.
    watched = [(node, _result(node)) for node in graph.graph if SITE in node.metadata_props and node.op_type != "Conv"]
    names = [value.name or "" for _, value in watched]
    expected = torch_outputs(network, {node.metadata_props[SITE] for node, _ in watched}, images)

    made = {value.name: value for node in model.graph for value in node.outputs}
    for node in model.graph:
        name = node.outputs[0].name
        if node.op_type == "Relu" and isinstance(_site(network, node), QuantReLU):
            value = _rounded(node)
            made[value.name] = value
            names[names.index(name or "")] = value.name or ""
    half = any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.initializers.values())
    precision = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    for name in names:
        if name != OUTPUT:
            model.graph.outputs.append(made[name])
            made[name].type = ir.TensorType(precision)
    fp8 = any(value.dtype == ir.DataType.FLOAT8E4M3FN for value in model.graph.initializers.values())
    order = [value.name for value in model.graph.outputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        ir.save(model, path)
        run = load(path, fp8)
        # One image alone as well: then runtimes choose other kernels.
        runs = [
            (count, dict(zip(order, run(images[:count].numpy()), strict=True))) for count in sorted({1, len(images)})
        ]

    layers: list[LayerParity] = []
    class_index = network.structure.class_index
    for (node, _), name in zip(watched, names, strict=True):
        wanted = expected[node.metadata_props[SITE]]
        least = min(_agreement(node, wanted[:count], outputs[name], class_index) for count, outputs in runs)
        layers.append(LayerParity(node.name or name, least))
        if not layers[-1].sqnr_db >= PARITY_DB:
            return Parity(runtime, tuple(layers), layers[-1].name)
    return Parity(runtime, tuple(layers), None)


def _agreement(node: ir.Node, wanted: Tensor, output: np.ndarray, class_index: int) -> float:
    wanted, found = _align(node, wanted, torch.from_numpy(np.asarray(output, np.float32)), len(wanted), class_index)
    return agreement(wanted, found)


def _site(network: Network, node: ir.Node) -> nn.Module | None:
    name = node.metadata_props.get(SITE)
    return None if name is None else network.get_submodule(name)


def _rounded(relu: ir.Node) -> ir.Value:
    """A ReLU's values as they are quantized: before it on some targets, behind it on others."""
    source = relu.inputs[0].producer() if relu.inputs[0] is not None else None
    if source is not None and source.op_type == "DequantizeLinear":
        return relu.outputs[0]
    [quantize] = [node for node in relu.outputs[0].consumers() if node.op_type == "QuantizeLinear"]
    [dequantize] = quantize.outputs[0].consumers()
    return dequantize.outputs[0]


def _result(node: ir.Node) -> ir.Value:
    """A GEMM's value with its bias: its own, or that of the Add behind it."""
    value = node.outputs[0]
    for reader in value.consumers():
        if reader.op_type == "Add" and reader.name == f"{node.name}.add":
            return reader.outputs[0]
    return value


def _align(node: ir.Node, wanted: Tensor, found: Tensor, batch: int, class_index: int) -> tuple[Tensor, Tensor]:
    """Bring both to [B, S, channels], with the channels and the tokens that this GEMM computes."""
    if found.ndim == 4:  # products of attention, [B, H, S, S], and maps
        return wanted, found.view(wanted.shape)
    if wanted.ndim == 4:
        side = round((len(site_rows(node)) / wanted.shape[1]) ** 0.5)  # of the squares of a transposed convolution
        wanted = nn.functional.pixel_unshuffle(wanted, side) if side > 1 else wanted
        wanted = wanted.flatten(2).transpose(1, 2)
    wanted = wanted.view(batch, -1, wanted.shape[-1])[..., site_rows(node)]
    if found.ndim == 2:  # sequence-major: row s·B + b
        found = found.view(-1, batch, found.shape[-1]).transpose(0, 1)
    some = found.shape[1]  # of all tokens, where the class token alone asks
    return wanted[:, -some:] if class_index else wanted[:, :some], found
