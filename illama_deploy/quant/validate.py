"""Whether the tensors of a quantized checkpoint are what their names say, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..calib import is_finite
from ..formats import IntType
from .manifest import Manifest, SiteRecord
from .modules import BIAS_LIMIT, QuantWeighted
from .network import input_scales, quantized_modules

__all__ = ["check_ranges", "check_shapes", "check_values"]

#: What files call the number types that are stored.
DTYPES = {torch.float32: "F32", torch.int8: "I8", torch.int32: "I32", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}


def check_shapes(path: Path, expected: Mapping[str, tuple[torch.dtype, torch.Size]]) -> None:
    """Hold the header of a file to the tensors that a network needs; no tensor is read.

    Raises:
        ValueError: one is missing, not known, or of another type or shape; it is named.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if strange := sorted(names ^ expected.keys()):
            raise ValueError(f"{strange[0]} {'is missing' if strange[0] in expected else 'is not known'}")
        for key, (dtype, shape) in expected.items():
            stored = file.get_slice(key)
            found = stored.get_dtype(), list(stored.get_shape())
            if found != (DTYPES[dtype], list(shape)):
                raise ValueError(f"{key} is {found[0]} {found[1]}, not {DTYPES[dtype]} {list(shape)}")


def check_values(model: nn.Module) -> None:
    """Look at every number of a network with quantized sites.

    Raises:
        ValueError: a step size that is not above zero, an integer beyond its format, or what is not finite; the tensor
            is named.
    """
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not is_finite(tensor.float()):
            raise ValueError(f"{key} holds NaN or infinite values")
    for name, module in quantized_modules(model):
        for key, tensor in module.named_buffers():
            if key.endswith("scale") and bool((tensor <= 0).any()):
                raise ValueError(f"{name}.{key} holds step sizes that are not above zero")
        if not isinstance(module, QuantWeighted):
            continue
        kind = module.format.weights
        if isinstance(kind, IntType) and not _within(module.weight_q, kind.qmin, kind.qmax):
            raise ValueError(f"{name}.weight_q holds integers beyond {kind.bits} bits")
        if module.bias_q is not None and not _within(module.bias_q, -2 * BIAS_LIMIT, 2 * BIAS_LIMIT):
            raise ValueError(f"{name}.bias_q holds integers that float32 does not")


def check_ranges(model: nn.Module, manifest: Manifest) -> None:
    """Hold the step sizes of activations to those that the manifest names.

    Raises:
        ValueError: they differ.
    """
    for name, module in quantized_modules(model):
        if _scales(manifest.sites[name]) != input_scales(module):
            raise ValueError(f"the step sizes of {name} are not those that the manifest names")


def _scales(site: SiteRecord) -> dict[str, float]:
    return {key: known.scale for key, known in site.inputs.items()}


def _within(integers: Tensor, low: float, high: float) -> bool:
    return not integers.numel() or (int(integers.min()) >= low and int(integers.max()) <= high)
