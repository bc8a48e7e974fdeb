"""How much each site costs by itself: the float network with that one site quantized."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.network import Network
from .modules import QuantMatMul, QuantModule, QuantReLU
from .network import quantized_modules
from .quality import sqnr_db

__all__ = ["SiteSensitivity", "measure_sensitivity"]


@dataclass(frozen=True)
class SiteSensitivity:
    """One site.

    Attributes:
        alone_db: logit SQNR of the float network with only this site quantized; low is sensitive.
        noise_share: its share of the logit noise of all sites taken one by one, 0 to 1.
        clipped: share of its activations beyond the clipping threshold, 0 to 1; None where nothing is clipped.
    """

    alone_db: float
    noise_share: float
    clipped: float | None


@torch.inference_mode()
def measure_sensitivity(
    reference: Network,
    quantized: Network,
    batches: Sequence[Tensor],
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> dict[str, SiteSensitivity]:
    """Quantize one site after the other in a copy of the float network.

    Args:
        reference: the float network that was quantized, rewrites applied.
        batches: images [B, C, H, W], normalised.
        track: wraps the names of the sites, to show progress.
    """
    network = copy.deepcopy(reference)
    expected = [network(images).double() for images in batches]
    signal = sum(float(logits.square().sum()) for logits in expected)
    noise: dict[str, float] = {}
    clipped: dict[str, float | None] = {}
    sites = dict(quantized_modules(quantized))
    for name in track(sites):
        original, counter = network.get_submodule(name), _Clipping(sites[name])
        network.set_submodule(name, counter)
        noise[name] = sum(
            float((network(images) - logits).square().sum()) for images, logits in zip(batches, expected, strict=True)
        )
        clipped[name] = counter.share
        network.set_submodule(name, original)
    total = sum(noise.values()) or 1.0
    return {
        name: SiteSensitivity(round(sqnr_db(signal, noise[name]), 3), noise[name] / total, clipped[name])
        for name in sites
    }


class _Clipping(nn.Module):
    """A quantized site that counts activations beyond its thresholds."""

    def __init__(self, site: QuantModule) -> None:
        super().__init__()
        self.site, self.beyond, self.seen = site, 0, 0

    def forward(self, *inputs: Tensor) -> Tensor:
        for scale, x in zip(_scales(self.site), inputs, strict=False):
            magnitudes = x if isinstance(self.site, QuantReLU) else x.abs()
            self.beyond += int((magnitudes > scale * self.site.activations.qmax).sum())
            self.seen += x.numel()
        output: Tensor = self.site(*inputs)
        return output

    @property
    def share(self) -> float | None:
        return self.beyond / self.seen if self.seen else None


def _scales(site: QuantModule) -> list[Tensor]:
    if isinstance(site, QuantMatMul):
        return [site.a_scale, site.b_scale]
    if isinstance(site, QuantReLU):
        return [site.scale]
    scale = getattr(site, "input_scale", None)
    return [] if scale is None else [scale]
