"""Small networks of timm's for tests, with every parameter perturbed so that none hides behind a zero or a one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

__all__ = ["hub_folder", "small"]

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


def hub_folder(folder: Path, name: str, *, classes: int = 10, prepared: Any = None, **arguments: Any) -> nn.Module:
    """Write a network as timm's own save function does, and give it."""
    model: Any = small(name, num_classes=classes, **arguments)
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
