"""Proof that a file takes any batch: it is run where a graph that depends on the batch would fail or change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import ExportError, parameter
from ..model.network import Network, NetworkConfig
from ..quant.quality import sqnr_db

__all__ = ["LARGEST", "RunFile", "proof_batches", "proof_images", "prove_batches"]

#: Images [B, C, H, W] to all outputs.
RunFile = Callable[[np.ndarray], list[np.ndarray]]

#: Every file is run at batches up to this size, which is also what `evaluate` takes.
LARGEST = 64
#: Multiplications and bytes of one value that a batch of the proof may take; larger ones only where asked for.
WORK, BYTES = 4e12, 2 << 30
#: One image's logits in a batch against those of the image alone. Additions in another order give 80 dB and more in
#: float32, 40 to 60 in float16, and turn few integers.
LEAST_DB = 20.0


def proof_batches(network: Network, *, others: Iterable[int] = (), whole: bool = False) -> tuple[int, ...]:
    """Sizes that a file of this network is run at: 1, an odd one, `LARGEST`, one image more than tokens, and `others`.

    Args:
        others: sizes that the file promises besides, such as the ends of an engine's profile.
        whole: also those that take minutes; those that need gigabytes for one value are always cut down.
    """
    config = network.config
    sizes = {1, 3, LARGEST, config.tokens + 1, *others}
    most = max(3, _most(network, config, whole))
    return tuple(sorted({min(size, most) for size in sizes}))


def _most(network: Network, config: NetworkConfig, whole: bool) -> int:
    tokens = config.tokens
    widest = max(config.heads * tokens**2, config.hidden * tokens, math.prod(config.logits))
    most = BYTES // (4 * widest)
    if not whole:
        weights = sum(value.numel() for value in network.state_dict().values())
        most = min(most, int(WORK // (weights * tokens)))
    return int(most)


def proof_images(config: NetworkConfig, count: int) -> np.ndarray:
    """Seeded noise, smooth and sharp: float32 [count, C, H, W]."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(count, config.channels, 4, 4, generator=generator)
    sharp = torch.randn(count, config.channels, *config.image_size, generator=generator)
    return (nn.functional.interpolate(smooth, config.image_size, mode="bicubic") + 0.3 * sharp).numpy()


def prove_batches(run: RunFile, name: str, path: Path, config: NetworkConfig, sizes: Iterable[int]) -> None:
    """Run a file at each size, and compare each image's logits with those that it gets alone.

    Args:
        run: runs it.
        name: of the runtime that does.

    Raises:
        ExportError: it fails at a size, gives other logits there, or logits that are no numbers.
    """
    images = proof_images(config, 3)
    alone = np.concatenate([run(image[None])[0] for image in images])
    if not np.isfinite(alone).all():
        raise ExportError(
            f"{name} gives logits that are not finite for an image of noise.",
            where=path.name,
            hint=f"The network overflows; see 'illama-deploy inspect --parity', and {parameter('exclude')} of "
            "quantize.",
        )
    signal = float(np.square(alone, dtype=np.float64).sum()) / len(alone)
    for size in sizes:
        order = np.arange(size) % len(images)
        logits = run(images[order])[0]
        if logits.shape != (size, *alone.shape[1:]):
            raise ExportError(f"{name} gives logits {logits.shape} for a batch of {size}.", where=path.name)
        noise = float(np.square(logits - alone[order], dtype=np.float64).sum())
        if not (math.isfinite(noise) and sqnr_db(signal * size, noise) >= LEAST_DB):
            raise ExportError(
                f"{name} gives an image other logits in a batch of {size} than alone.",
                where=path.name,
                hint="Another version of the runtime may not; see 'illama-deploy doctor' for its number.",
            )
