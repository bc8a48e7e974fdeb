"""How far each quantized site departs from the float network: signal-to-noise ratio of its output."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..calib.finite import is_finite, require_finite
from .network import quantized_modules

__all__ = ["LOGITS", "NOISELESS_DB", "measure_sqnr", "sqnr_db"]

#: Key of the whole network's output among the sites.
LOGITS = "logits"
#: Reported where there is no noise at all, so that JSON needs no infinity.
NOISELESS_DB = 200.0


def sqnr_db(signal: float, noise: float) -> float:
    """10·log10(signal / noise) of two sums of squares, within ±200 dB; -200 where one of them is not finite."""
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -NOISELESS_DB
    if noise <= 0 or signal <= 0:
        return NOISELESS_DB if noise <= 0 else -NOISELESS_DB
    ratio = signal / noise
    return max(-NOISELESS_DB, min(10 * math.log10(ratio), NOISELESS_DB)) if ratio > 0 else -NOISELESS_DB


@torch.inference_mode()
def measure_sqnr(reference: nn.Module, quantized: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Run both networks side by side.

    Returns:
        Site name to the ratio in dB between its float output and the error of its quantized one, all errors
        from earlier sites included; the key `logits` holds the whole network's.

    Raises:
        CheckpointError: one of them puts out NaN or infinite logits.
    """
    names = [name for name, _ in quantized_modules(quantized)]
    outputs: dict[str, Tensor] = {}
    sums = {name: [0.0, 0.0] for name in (*names, LOGITS)}

    def keep(name: str) -> object:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            outputs[name] = output

        return hook

    def compare(name: str, output: Tensor) -> None:
        expected = outputs.pop(name)
        sums[name][0] += float(expected.double().square().sum())
        sums[name][1] += float((output.double() - expected.double()).square().sum())

    def check(name: str) -> object:
        return lambda module, args, output: compare(name, output)

    handles, broken = [], list[nn.Module]()
    for name in names:
        handles.append(reference.get_submodule(name).register_forward_hook(keep(name)))  # type: ignore[arg-type]
        handles.append(quantized.get_submodule(name).register_forward_hook(check(name)))  # type: ignore[arg-type]
    try:
        for images in batches:
            outputs[LOGITS] = reference(images)
            logits = quantized(images)
            broken = [
                model for model, made in ((reference, outputs[LOGITS]), (quantized, logits)) if not is_finite(made)
            ]
            compare(LOGITS, logits)
            if broken:
                break
    finally:
        for handle in handles:
            handle.remove()
    for model in broken:  # without our hooks
        require_finite(model, images, model(images))
    return {name: round(sqnr_db(*pair), 3) for name, pair in sums.items()}
