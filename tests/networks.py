"""Small networks of timm's for tests, with every parameter perturbed so that none hides behind a zero or a one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torch import nn

__all__ = ["hub_folder", "kinds", "know_kinds", "save_kinds", "small"]

#: A transformer of two blocks, which takes milliseconds.
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}


def small(name: str, **arguments: Any) -> nn.Module:
    """A network of timm's in evaluation mode, two blocks of width 64 unless arguments say otherwise."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, **{**TINY, "num_classes": 10, **arguments})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.1 if parameter.ndim == 1 else 0.04
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def hub_folder(
    folder: Path, name: str, *, classes: int = 10, prepared: Any = None, knows: bool = False, **arguments: Any
) -> nn.Module:
    """Write a network as timm's own save function does; `knows`: with a classifier for `kinds`."""
    model: Any = small(name, num_classes=classes, **arguments)
    if knows:
        know_kinds(model, classes)
    model.pretrained_cfg.update({"num_classes": classes, **(prepared or {})})
    given = {**TINY, **arguments}
    size = given["img_size"]
    model.pretrained_cfg["input_size"] = (3, size, size)
    save_for_hf(
        model,
        folder,
        model_config={"label_names": [f"kind {i}" for i in range(classes)]} if classes else None,
        model_args=given,
        safe_serialization=True,
    )
    return model


def kinds(count: int, classes: int, size: int, seed: int = 1) -> torch.Tensor:
    """Images of several kinds, one after the other: a pattern of each kind and noise, 0 to 255, uint8 [n, 3, H, W]."""
    patterns = torch.randn(classes, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(patterns[torch.arange(count) % classes], (size, size), mode="bicubic")
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(seed))
    return ((smooth + 0.3 * noise) * 55 + 128).clamp(0, 255).byte()


@torch.no_grad()
def know_kinds(model: Any, classes: int) -> None:
    """Give a network a classifier that tells kinds apart, by the means of their features."""
    size, cfg = model.patch_embed.img_size[0], model.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = (kinds(8 * classes, classes, size).float() / 255 - mean) / std
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    means = features.view(-1, classes, features.shape[1]).mean(0)
    apart = means - means.mean(0)
    weight = apart / apart.square().sum(1).mean().sqrt() * 5
    model.head.weight.copy_(weight)
    model.head.bias.copy_(-(weight * (means.mean(0) + apart / 2)).sum(1))


def save_kinds(folder: Path, count: int, classes: int, size: int) -> None:
    """Such images as files, a folder for each kind."""
    for i, image in enumerate(kinds(count, classes, size, seed=2)):
        place = folder / f"kind {i % classes}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:04}.png")
