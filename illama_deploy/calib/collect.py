"""Run images through the float network and histogram the inputs of the sites that will be quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .finite import find_overflow, is_finite
from .histogram import MagnitudeHistogram

__all__ = ["collect_channel_maxima", "collect_ranges", "rebatch", "run_observed"]

#: What the network always sees at once while calibrating, whatever batches the images come in. Another size
#: would change the order of float additions inside GEMMs, and with it the last bits of every range.
CHUNK = 32


def rebatch(batches: Iterable[Tensor], size: int = CHUNK) -> Iterator[Tensor]:
    """Cut and join batches to `size` images each; the last may be smaller."""
    waiting: list[Tensor] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting, count = [joined[size:]], count - size
    if count:
        yield torch.cat(waiting)


class _OverflowError(Exception):
    """Something is not finite."""


@torch.inference_mode()
def run_observed(
    model: nn.Module, hooks: Mapping[str, Callable[[tuple[Tensor, ...]], None]], batches: Iterable[Tensor]
) -> None:
    """Run all images; each hook gets the inputs of the module that it is named for.

    Raises:
        CheckpointError: such an input, or what the network puts out, is not finite.
    """

    def adapt(observe: Callable[[tuple[Tensor, ...]], None]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not all(map(is_finite, inputs)):
                raise _OverflowError
            observe(inputs)

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(adapt(observe)) for name, observe in hooks.items()]
    overflowing = None
    try:
        for images in rebatch(batches):
            overflowing = images
            if not is_finite(model(images)):
                raise _OverflowError
    except _OverflowError:
        pass
    else:
        return
    finally:
        for handle in handles:
            handle.remove()
    assert overflowing is not None
    find_overflow(model, overflowing)


def collect_ranges(
    model: nn.Module, sites: Mapping[str, Sequence[str]], batches: Iterable[Tensor]
) -> dict[str, MagnitudeHistogram]:
    """Histogram each input of each site; of a ReLU what it lets through.

    Args:
        sites: module name to the names of its inputs: ("input",), or ("a", "b") for a product.
        batches: images [B, C, H, W], any batch sizes.

    Returns:
        `SITE/INPUT` to its histogram.
    """
    histograms = {f"{site}/{name}": MagnitudeHistogram() for site, names in sites.items() for name in names}
    rectified = {site for site in sites if isinstance(model.get_submodule(site), nn.ReLU)}

    def observer(site: str, names: Sequence[str]) -> Callable[[tuple[Tensor, ...]], None]:
        def observe(inputs: tuple[Tensor, ...]) -> None:
            for name, x in zip(names, inputs, strict=True):
                histograms[f"{site}/{name}"].update(F.relu(x) if site in rectified else x)

        return observe

    run_observed(model, {site: observer(site, names) for site, names in sites.items()}, batches)
    return histograms


def collect_channel_maxima(model: nn.Module, names: Sequence[str], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Measure the largest magnitude of each channel that modules see: name to float32 [in].

    Of inputs [B, H, S, D] each head's channels are kept apart: [H, D].
    """
    maxima: dict[str, Tensor] = {}

    def observer(name: str) -> Callable[[tuple[Tensor, ...]], None]:
        def observe(inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].abs()
            largest = x.amax((0, 2)) if x.ndim == 4 else x.flatten(0, -2).amax(0)
            maxima[name] = torch.maximum(maxima[name], largest) if name in maxima else largest

        return observe

    run_observed(model, {name: observer(name) for name in names}, batches)
    return maxima
