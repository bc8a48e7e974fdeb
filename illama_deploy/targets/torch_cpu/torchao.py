"""A quantized checkpoint on torchao's kernels, compiled: `--target torch`.

Every Linear gets a torchao tensor made of the checkpoint's own integers and scales, nothing is quantized anew. What
torchao has no form for (convolutions, products of attention) stays simulated, exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...compilation import compiling
from ...errors import UsageError, parameter
from ...formats import IntType
from ...model.network import Network
from ...quant import load_quantized
from ...quant.artifact import WEIGHTS
from ...quant.modules import QuantLinear
from ...quant.network import quantized_modules
from ...runtime import ArtifactInfo
from .simulated import TorchRuntime

__all__ = ["TORCHAO_FORMATS", "open_torchao", "to_torchao"]

#: Formats (`Format.base`) that torchao has a matching configuration for.
TORCHAO_FORMATS = ("W8A8", "W8A8-dynamic", "W4A8", "W4A16", "W2A16")

#: Batch sizes that get kernels of their own.
COMPILED_SIZES = 8


def to_torchao(network: Network) -> Network:
    """Replace the quantized sites of a network by torchao's tensors, in place.

    Raises:
        UsageError: a site has a format that torchao has no match for.
    """
    for name, module in list(quantized_modules(network)):
        if module.format.base not in TORCHAO_FORMATS:
            raise UsageError(
                f"torchao has no match for {module.format.base}.",
                where=name,
                hint=f"It runs {', '.join(TORCHAO_FORMATS)}; leave {parameter('backend', 'targets')} out to simulate "
                "the exact integers.",
            )
        if isinstance(module, QuantLinear):
            # torchao wants a step size of as many dimensions as its input; only the head's is [B, E].
            network.set_submodule(name, _linear(module, 2 if name == "head" else 3))
    return network


def open_torchao(name: str, directory: Path, threads: int, *, compile: bool = True) -> TorchRuntime:
    """Run a quantized checkpoint with torchao (and `torch.compile`, whose first run takes a while)."""
    from importlib.metadata import version

    artifact = load_quantized(directory)
    manifest = artifact.manifest
    network = to_torchao(artifact.model)
    info = ArtifactInfo(
        name,
        manifest["format"],
        f"torchao {version('torchao')}" + (", compiled" if compile else ""),
        "CPU",
        (directory / WEIGHTS).stat().st_size,
        manifest["weights"]["sha256"],
        artifact.manifest_sha256,
    )
    runtime = (
        _Compiled(network, info, artifact.preprocessing, threads)
        if compile
        else TorchRuntime(network, info, artifact.preprocessing, threads)
    )
    runtime.class_names, runtime.data = tuple(manifest["classes"]), manifest["data"]["kind"]
    return runtime


class _Compiled(TorchRuntime):
    """Runs the compiled network, with kernels for each batch size: they are faster than those for a size that changes.

    Compiling takes half a minute, so only the first `COMPILED_SIZES` sizes get theirs; other batches are filled up to
    one of these, or cut into several.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.compiled = torch.compile(self.model, dynamic=False, fullgraph=True)
        self.sizes: set[int] = set()

    @torch.no_grad()
    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        batch = len(images_BCHW)
        if batch in self.sizes:
            return self._logits(images_BCHW)
        if len(self.sizes) < COMPILED_SIZES:
            with compiling(freezing=True):
                logits = self._logits(images_BCHW)
            self.sizes.add(batch)
            return logits
        size = min((size for size in self.sizes if size > batch), default=max(self.sizes))
        filled_BCHW = np.pad(images_BCHW, [(0, -batch % size), (0, 0), (0, 0), (0, 0)])
        starts = range(0, len(filled_BCHW), size)
        return np.concatenate([self._logits(filled_BCHW[start : start + size]) for start in starts])[:batch]

    def _logits(self, images_BCHW: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self.compiled(torch.from_numpy(images_BCHW)).numpy()
        return logits


def _linear(module: QuantLinear, input_dimensions: int) -> nn.Linear:
    from torchao.quantization import PerTensor
    from torchao.quantization.granularity import PerRow
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor, QuantizeTensorToInt8Kwargs

    out, inputs = module.weight_q.shape
    scale = module.weight_scale.view(out, -1)
    options: dict[str, object] = {}
    if module.format.activations is not None:
        assert isinstance(module.format.activations, IntType)
        dynamic = module.format.dynamic
        options["act_quant_kwargs"] = QuantizeTensorToInt8Kwargs(PerRow() if dynamic else PerTensor())
        options["act_quant_scale"] = (
            None if module.input_scale is None else module.input_scale.view([1] * input_dimensions)
        )
    weight = Int8Tensor(
        module.weight_q,
        scale,
        [1, inputs // scale.shape[1]],
        torch.float32,
        zero_point=torch.zeros_like(scale, dtype=torch.int8),
        **options,
    )
    linear = nn.Linear(inputs, out, bias=module.float_bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if module.float_bias is not None:
        linear.bias = nn.Parameter(module.float_bias, requires_grad=False)
    return linear
