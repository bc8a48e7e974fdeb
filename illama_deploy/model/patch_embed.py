"""From images to tokens."""

from __future__ import annotations

from torch import Tensor, nn

from .network import NetworkConfig

__all__ = ["PatchEmbed"]


class PatchEmbed(nn.Module):
    """Non-overlapping patches: a convolution whose stride is its kernel. Images [B, C, H, W] to tokens [B, N, E]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.proj(images_BCHW).flatten(2).transpose(1, 2)
