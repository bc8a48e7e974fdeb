"""A network whose activations overflow has no ranges, no moments and no error to speak of: it is refused by layer."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, parameter

__all__ = ["find_overflow", "is_finite", "refuse", "require_finite"]


def is_finite(x: Tensor) -> bool:
    """Whether all of it is numbers."""
    return x.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(x.detach()))


def require_finite(model: nn.Module, images: Tensor, output: Tensor) -> None:
    """Look at what a network made of a batch; where that is not finite, run it again to see where it began.

    Raises:
        CheckpointError: NaN or infinite values; the layer and the number of images are named.
    """
    if not is_finite(output):
        find_overflow(model, images)


def refuse(where: str, images: str) -> NoReturn:
    """Refuse a network for what was seen.

    Args:
        where: such as `what head puts out`.
        images: such as `3 of 32 images`.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"The network's activations overflow: {where} is NaN or infinite for {images}.",
        hint=f"Look at the checkpoint's training, and at {parameter('mean')} and {parameter('std')}: images must come "
        "as it was trained with.",
    )


class _FoundError(Exception):
    """The first place that is not finite."""

    def __init__(self, where: str, values: Tensor) -> None:
        self.where, self.values = where, values


@torch.inference_mode()
def find_overflow(model: nn.Module, images: Tensor) -> NoReturn:
    """Run a network that is known to overflow on a batch, and say where that begins.

    Raises:
        CheckpointError: always.
    """
    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, nn.Identity):
            handles.append(module.register_forward_pre_hook(partial(_look_before, name)))
            handles.append(module.register_forward_hook(partial(_look_behind, name)))
    try:
        _look("what preprocessing makes of the images", images)
        _look("what the network puts out", model(images))
    except _FoundError as found:
        bad = sum(not is_finite(one) for one in found.values)
        refuse(found.where, f"{bad} of {len(found.values)} images")
    finally:
        for handle in handles:
            handle.remove()
    refuse("something", "some images")


def _look_before(name: str, module: nn.Module, inputs: Any) -> None:
    _look(f"what goes into {name}", inputs)


def _look_behind(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    _look(f"what {name} puts out", output)


def _look(where: str, values: Any) -> None:
    for x in values if isinstance(values, tuple) else (values,):
        if isinstance(x, Tensor) and x.is_floating_point() and not is_finite(x):
            raise _FoundError(where, x)
