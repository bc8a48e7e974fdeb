"""UperNet: a map of classes from features at four depths of a transformer.

    levels   norm and Linear read the image tokens after four blocks; ×4, ×2, ×1 and ×1/2 of the patch grid
    PPM      the coarsest level, averaged over 1, 2, 3 and 6 cells along each side
    FPN      each level added to the next finer one, then all of them side by side

Every level is read by a Linear layer first and resampled then, as in DPT, where the usual ViT-UperNet resamples the
stream itself: so norms, rotations and scales of the stream fold into it exactly, as they do into a classifier. Every
BatchNorm follows a convolution.

Sources: Xiao et al., *Unified Perceptual Parsing* (arXiv 1807.10221); Ranftl et al., *DPT* (arXiv 2103.13413), for
the order of reading and resampling; Bao et al., *BEiT* (arXiv 2106.08254), for the depths and how a plain ViT's
features are resampled.

Shapes in names: B batch, N image tokens, E embedding dimension, C the head's width, K classes, h and w those of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import LEVELS, NetworkConfig

__all__ = ["LEVELS", "POOLS", "ConvNormReLU", "UpNormReLU", "UperNet", "resize"]

#: Cells along each side that the coarsest level is averaged over.
POOLS = (1, 2, 3, 6)
DROPOUT = 0.1


def resize(x_BChw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, pixels as areas (half-pixel centres)."""
    return F.interpolate(x_BChw, size=tuple(size), mode="bilinear", align_corners=False)


class ConvNormReLU(nn.Sequential):
    """`conv` (odd kernel, same size), `norm`, `relu`."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()


class UpNormReLU(nn.Sequential):
    """`conv` (transposed, twice the size, no overlap), `norm`, `relu`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()


class UperNet(nn.Module):
    """The residual stream's image tokens after four blocks, 4 × [B, N, E], to logits [B, K, height, width].

    Args:
        norms: one for each level.
    """

    norms: Sequence[nn.Module]
    reads: Sequence[nn.Linear]

    def __init__(self, config: NetworkConfig, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        C = config.head_width
        self.grid, self.image_size = config.grid, config.image_size
        self.norms = nn.ModuleList(norms)  # type: ignore[assignment]
        self.reads = nn.ModuleList(nn.Linear(config.dim, C) for _ in range(LEVELS))  # type: ignore[assignment]
        self.laterals = nn.ModuleList(
            (nn.Sequential(UpNormReLU(C), UpNormReLU(C)), UpNormReLU(C), ConvNormReLU(C, C, 1), nn.MaxPool2d(2))
        )
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(cells) for cells in POOLS)
        self.pooled = nn.ModuleList(ConvNormReLU(C, C, 1) for _ in POOLS)
        self.pyramid = ConvNormReLU((1 + len(POOLS)) * C, C, 3)
        self.smooths = nn.ModuleList(ConvNormReLU(C, C, 3) for _ in range(LEVELS - 1))
        self.fuse = ConvNormReLU(LEVELS * C, C, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(C, config.classes, 1)

    def forward(self, levels_BNE: Sequence[Tensor]) -> Tensor:
        maps = [
            lateral(read(norm(x_BNE)).transpose(1, 2).unflatten(2, self.grid))
            for x_BNE, norm, read, lateral in zip(levels_BNE, self.norms, self.reads, self.laterals, strict=True)
        ]
        last = maps[-1]
        pooled = [resize(conv(pool(last)), last.shape[2:]) for pool, conv in zip(self.pools, self.pooled, strict=True)]
        maps[-1] = self.pyramid(torch.cat((last, *pooled), 1))
        for i in reversed(range(LEVELS - 1)):
            maps[i] = maps[i] + resize(maps[i + 1], maps[i].shape[2:])
        smooth = [conv(x_BChw) for x_BChw, conv in zip(maps[:-1], self.smooths, strict=True)]
        finest = smooth[0].shape[2:]
        side_by_side = [smooth[0], *(resize(x_BChw, finest) for x_BChw in (*smooth[1:], maps[-1]))]
        logits_BKhw = self.classifier(self.dropout(self.fuse(torch.cat(side_by_side, 1))))
        return resize(logits_BKhw, self.image_size)
