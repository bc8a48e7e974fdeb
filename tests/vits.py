"""timm's networks, made small, and the networks here that are read of them."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

from illama_deploy.model.families import build_network
from illama_deploy.model.timm_vits import read_timm

#: Narrow networks of two blocks stand for those of timm's sizes, which differ in nothing else.
NARROW = {"embed_dim": 96, "num_heads": 3, "depth": 2}
#: One network for each thing that rewrites and graphs tell apart: timm's name and arguments.
SPREAD: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "LayerScale and registers": ("vit_small_patch14_reg4_dinov2", {"num_classes": 5}),
    "entry norm, quick GELU": ("vit_base_patch32_clip_quickgelu_224", {}),
    "mean of norms, no class token": ("vit_base_patch32_siglip_gap_256", {}),
    "norm of the mean": ("vit_wee_patch16_reg1_gap_256", {}),
    "RMSNorm": ("test_vit4", {}),
    "RMSNorm in front": ("test_vit4", {"pre_norm": True}),
    "both heads": ("deit_tiny_distilled_patch16_224", {}),
    "gated, features": ("vit_giant_patch14_reg4_dinov2", {}),
    "inner norms": ("beit3_base_patch16_224", {}),
    "gated, inner norms, rotary": ("eva02_base_patch16_clip_224", {}),
    "gated, norm in the FFN": ("eva02_base_patch14_224", {}),
    "no positions, rotary halves": ("vit_small_patch16_dinov3", {}),
    "rotary of each head": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "nothing but image tokens": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "pos_embed": ""}),
}


def made(name: str, grid: tuple[int, int] = (2, 2), **changes: Any) -> Any:
    """timm's network in evaluation mode, narrow and for so many patches, every parameter of it random."""
    patch = int(found[1]) if (found := re.search(r"patch(\d+)", name)) else 16
    size = tuple(side * patch for side in grid)
    model = timm.create_model(name, **{"img_size": size, **NARROW, **changes}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            loud = 0.1 if parameter.ndim == 1 else 0.05
            parameter.add_(torch.randn(parameter.shape, generator=generator) * loud)
            if key == "rope.freqs":  # angles, not weights
                parameter.mul_(2)
    return model


def network_of(name: str, model: nn.Module) -> Any:
    """What is read of it, with its values and in their type."""
    reading = read_timm(name, model)
    state = reading.translate(model.state_dict())
    found = build_network(reading.config).eval().to(next(model.parameters()).dtype)
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in found.state_dict().items()
    }
    found.load_state_dict(state)
    return found


def images_for(model: Any, count: int = 2) -> Tensor:
    patches = model.patch_embed
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, patches.proj.in_channels, *patches.img_size, generator=generator)
