"""What quantizing a few sites alone does to the logits, all else being float."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..formats import Format
from ..model.network import Network
from ..quant import Site, quantize_network
from ..quant.network import Rounding
from ..quant.quality import sqnr_db

__all__ = ["Divergence", "diverge", "quantized_alone"]


class Divergence(NamedTuple):
    """How far logits are from the float network's.

    Attributes:
        kl: Kullback-Leibler divergence of the class distribution from float's, in nats, mean over the images. That of
            errors in several sites is about the sum of what each causes alone.
        sqnr_db: signal-to-noise ratio of the logits.
    """

    kl: float
    sqnr_db: float


def diverge(pairs: Iterable[tuple[Tensor, Tensor]]) -> Divergence:
    """Compare logits [B, classes] with the float network's, batch by batch: pairs of (logits, float logits)."""
    count, kl, signal, noise = 0, 0.0, 0.0, 0.0
    for pair in pairs:
        logits, exact = pair[0].double(), pair[1].double()
        kl += float(F.kl_div(logits.log_softmax(1), exact.log_softmax(1), reduction="sum", log_target=True))
        signal += float(exact.square().sum())
        noise += float((logits - exact).square().sum())
        count += len(logits)
    return Divergence(max(kl, 0.0) / count, sqnr_db(signal, noise))


@contextmanager
def quantized_alone(
    model: Network,
    sites: Sequence[Site],
    formats: Mapping[str, Format],
    thresholds: Mapping[str, float],
    rounding: Rounding,
) -> Iterator[None]:
    """Quantize some sites of the float network, in place, and undo it."""
    originals = {site.name: model.get_submodule(site.name) for site in sites}
    try:
        quantize_network(model, sites, thresholds, formats, rounding)
        yield
    finally:
        for name, module in originals.items():
            model.set_submodule(name, module)
