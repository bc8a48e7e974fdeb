"""Sites that get a format together, and what a format costs there in bytes and in bit operations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..formats import Format
from ..quant import Site
from ..quant.packing import packed_bits

__all__ = ["bit_operations", "count_products", "group_sites", "stored_bits", "weight_bytes"]

#: Of operands that stay in floating point.
FLOAT_BITS = 16


def group_sites(sites: Iterable[Site], shared: Iterable[Sequence[str]]) -> dict[str, tuple[Site, ...]]:
    """Join the sites that take the same tensor: one step size serves them, and targets merge them.

    Args:
        shared: names of the sites that do (`Structure.shared_inputs`).

    Returns:
        Glob that matches the group's sites and no other, such as `blocks.0.mlp.fc[13]`, to the sites.
    """
    globs = {name: _glob(names) for names in shared for name in names}
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(globs.get(site.name, site.name), []).append(site)
    return {name if len(group) > 1 else group[0].name: tuple(group) for name, group in groups.items()}


def _glob(names: Sequence[str]) -> str:
    """The glob that matches these names, which differ in one character, and no other."""
    columns = list(zip(*names, strict=True))
    assert sum(len(set(column)) > 1 for column in columns) == 1, names
    return "".join(column[0] if len(set(column)) == 1 else f"[{''.join(sorted(column))}]" for column in columns)


def stored_bits(format_: Format, inputs: int = 4096) -> float:
    """Bits that a weight takes in a file, with its share of float32 step sizes, in rows of so many inputs."""
    return packed_bits(format_.weights.bits) + 32 / (format_.group_for(inputs) or inputs)


def weight_bytes(module: nn.Module, format_: Format) -> int:
    """Bytes that the weight of a float GEMM takes in a file; 0 for a product of activations."""
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return 0
    return math.ceil(module.weight.numel() * stored_bits(format_, module.weight[0].numel()) / 8)


def bit_operations(products: int, format_: Format, *, is_product: bool = False) -> int:
    """Products of single bits in so many products of numbers: the usual measure of work that no machine decides."""
    right = FLOAT_BITS if format_.activations is None else format_.activations.bits
    return products * right * (right if is_product else format_.weights.bits)


@torch.inference_mode()
def count_products(model: nn.Module, image: Tensor, sites: Sequence[Site]) -> dict[str, int]:
    """Multiplications that each site does for one image [1, C, H, W]."""
    counts: dict[str, int] = {}

    def counter(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Each number put out is a sum over one row of weights, or of the first operand.
            terms = module.weight[0].numel() if len(inputs) == 1 else inputs[0].shape[-1]  # type: ignore[index]
            counts[name] = output.numel() * terms

        return hook

    handles = [model.get_submodule(site.name).register_forward_hook(counter(site.name)) for site in sites]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return counts
