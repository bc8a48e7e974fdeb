"""Layer by layer: the exported graph in its runtime against the quantized network in torch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..model.illama import Illama
from ..quant import QuantReLU
from ..quant.quality import NOISELESS_DB, sqnr_db
from .batches import proof_images
from .float_graph import OUTPUT, SITE, site_rows
from .run_file import open_file, runtime_of
from .targets import Target

__all__ = ["PARITY_DB", "LayerParity", "Parity", "measure_parity"]

#: A layer departs where its error is above a hundredth of its signal's power. Rounding alone gives 35 to 60 dB.
PARITY_DB = 20.0
#: An odd number; one of them is also run alone.
IMAGES = 3


@dataclass(frozen=True)
class LayerParity:
    """One GEMM: its signal-to-noise ratio in the runtime against torch, in dB, all earlier errors included."""

    name: str
    sqnr_db: float


@dataclass(frozen=True)
class Parity:
    """All GEMMs in order of execution, up to the first that departs.

    Attributes:
        runtime: what ran the exported graph.
        departs: name of the first layer below the limit, if any.
    """

    runtime: str
    layers: tuple[LayerParity, ...]
    departs: str | None

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "runtime": self.runtime,
            "departs": self.departs,
            "layers": {layer.name: round(layer.sqnr_db, 2) for layer in self.layers},
        }

    def demand(self) -> Parity:
        """Return it if no layer departs.

        Raises:
            ExportError: one does; it is named.
        """
        if self.departs is not None:
            last = self.layers[-1]
            raise ExportError(
                f"{self.runtime} departs from torch at {last.name}: {last.sqnr_db:.1f} dB where {PARITY_DB:.0f} are "
                f"the least ({len(self.layers) - 1} GEMMs before it agree).",
                where=last.name,
                hint="Leave that site in float (quantize --exclude), or try another version of the runtime.",
            )
        return self

    def __str__(self) -> str:
        least = min(self.layers, key=lambda layer: layer.sqnr_db)
        return (
            f"{len(self.layers)} GEMMs compared with torch in {self.runtime}: least agreement {least.sqnr_db:.1f} dB "
            f"at {least.name}" + (f"; {self.departs} departs" if self.departs else "")
        )


def measure_parity(network: Illama, target: Target, *, images: Tensor | None = None) -> Parity:
    """Run a network in torch and its exported graph in the target's runtime, and compare every GEMM's output.

    Args:
        network: quantized or float; of what the target takes the weights alone, torch does so too.
        images: [B, C, H, W], normalised; 3 of seeded noise, smooth and sharp, where not given.

    Raises:
        RuntimeUnavailableError: the runtime is not installed, or too old.
        ExportError: the runtime refuses the graph.
    """
    network = target.network(network)
    images = torch.from_numpy(proof_images(network.config, IMAGES)) if images is None else images
    graph = target.graph(network).graph
    # A convolution is watched behind its ReLU: were its own result asked for, it would not stay an integer one.
    watched = [(node, _result(node)) for node in graph if SITE in node.metadata_props and node.op_type != "Conv"]
    names = [value.name or "" for _, value in watched]
    expected = _torch_outputs(network, {node.metadata_props[SITE] for node, _ in watched}, images)

    model = target.build(network, whole=False)
    made = {value.name: value for node in model.graph for value in node.outputs}
    for node in model.graph:
        name = node.outputs[0].name
        if node.op_type == "Relu" and isinstance(_site(network, node), QuantReLU):
            value = _rounded(node)
            made[value.name] = value
            names[names.index(name or "")] = value.name or ""
    for name in names:
        if name != OUTPUT:
            model.graph.outputs.append(made[name])
            half = target.float_format == "float16"
            made[name].type = ir.TensorType(ir.DataType.FLOAT16 if half else ir.DataType.FLOAT)
    runtime = runtime_of(target)
    fp8 = any(value.dtype == ir.DataType.FLOAT8E4M3FN for value in model.graph.initializers.values())
    order = [value.name for value in model.graph.outputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        ir.save(model, path)
        run = open_file(path, target, fp8=fp8)
        # One image alone as well: then runtimes choose other kernels.
        runs = [
            (count, dict(zip(order, run(images[:count].numpy()), strict=True))) for count in sorted({1, len(images)})
        ]

    layers: list[LayerParity] = []
    for (node, _), name in zip(watched, names, strict=True):
        wanted = expected[node.metadata_props[SITE]]
        least = min(_agreement(node, wanted[:count], outputs[name]) for count, outputs in runs)
        layers.append(LayerParity(node.name or name, least))
        if not layers[-1].sqnr_db >= PARITY_DB:
            return Parity(runtime, tuple(layers), layers[-1].name)
    return Parity(runtime, tuple(layers), None)


def _agreement(node: ir.Node, wanted: Tensor, output: np.ndarray) -> float:
    """Signal to noise in dB of a GEMM's output against torch's; -200 where it is no number."""
    wanted, found = _align(node, wanted, torch.from_numpy(np.asarray(output, np.float32)), len(wanted))
    noise = float((found - wanted).double().square().sum())
    return sqnr_db(float(wanted.double().square().sum()), noise) if math.isfinite(noise) else -NOISELESS_DB


def _site(network: Illama, node: ir.Node) -> nn.Module | None:
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


@torch.inference_mode()
def _torch_outputs(network: Illama, sites: set[str], images: Tensor) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            outputs[name] = output.float()

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in sites]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _align(node: ir.Node, wanted: Tensor, found: Tensor, batch: int) -> tuple[Tensor, Tensor]:
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
    return wanted[:, -found.shape[1] :], found
