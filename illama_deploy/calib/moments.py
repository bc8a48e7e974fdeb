"""Second moments of what a GEMM sees, for methods that round weights by their effect on its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .finite import is_finite, refuse

__all__ = ["Moments", "collect_moments"]


class Moments:
    """Running sums over the rows x (float32 [rows, in]) that a site sees.

    Sums within a chunk are taken in float32, over chunks in float64.

    Attributes:
        second: Σ xᵀx, float64 [in, in].
        cross: Σ x_fᵀx, with x_f the float network's rows at the same place; float64 [in, in].
        rows: how many there were.
    """

    def __init__(self, inputs: int) -> None:
        self.second = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.rows = 0

    def update(self, x: Tensor, reference: Tensor | None = None) -> None:
        """Add rows; `reference` holds x_f in the same rows."""
        self.rows += len(x)
        self.second += (x.T @ x).double()
        if reference is not None:
            self.cross += (reference.T @ x).double()


class _SeenAllError(Exception):
    """Every site has been observed; the rest of the module need not run."""


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """The rows of the GEMM: tokens, or patches of a convolution."""
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)
        x = F.unfold(x, module.kernel_size, padding=module.padding, stride=module.stride).transpose(1, 2)
    return x.flatten(0, -2)


def _observe(module: nn.Module, names: Iterable[str], x: Tensor) -> dict[str, Tensor]:
    """Inputs of the named submodules when `module` runs on x; it is left once all have come by."""
    wanted = set(names)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[name] = inputs[0]
            if len(seen) == len(wanted):
                raise _SeenAllError

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(keep(name)) for name in wanted]
    try:
        module(x)
    except _SeenAllError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.inference_mode()
def collect_moments(
    module: nn.Module,
    sites: Mapping[str, Callable[[Tensor], Tensor]],
    chunks: Iterable[Tensor],
    *,
    reference: nn.Module | None = None,
    reference_chunks: Iterable[Tensor] | None = None,
    prefix: str = "",
) -> dict[str, Moments]:
    """Run part of a network, such as a block, and sum up what its sites see.

    Args:
        sites: name within `module`, of a module that is still float, to what its quantizer makes of its input.
        chunks: inputs of `module`, in a fixed partition (its size changes the last bits of the sums).
        reference: the same part of the float network, and its own inputs in `reference_chunks`.
        prefix: stands before the names, where one is told to people.

    Returns:
        Name to moments; without `reference`, `cross` stays zero.

    Raises:
        CheckpointError: what a site sees is not finite, or too large to be squared.
    """
    moments: dict[str, Moments] = {}
    both = [(x, None) for x in chunks] if reference_chunks is None else zip(chunks, reference_chunks, strict=True)
    for x, x_f in both:
        seen = _observe(module, sites, x)
        floats = _observe(reference, sites, x_f) if reference is not None and x_f is not None else {}
        for name, quantizer in sites.items():
            site = module.get_submodule(name)
            rows = quantizer(_rows(site, seen[name]))
            target = _rows(site, floats[name]) if floats else None
            moments.setdefault(name, Moments(rows.shape[1])).update(rows, target)
    for name, sums in moments.items():
        if not (is_finite(sums.second) and is_finite(sums.cross)):
            refuse(f"the square of what goes into {prefix}{name}", "some of the calibration images")
    return moments
