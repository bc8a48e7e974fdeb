"""R1: rotate the residual stream, so that no channel of it is louder than others.

RMSNorm without weights commutes with rotations, so everything that writes the stream (patch embedding, class token,
position embedding, proj, fc2) is turned by R and everything that reads it (qkv, fc1, fc3, and the head or a UperNet's
four `reads`) back by Rᵀ. Norm weights are folded first, as `fold_norms` does.

Sources: Ashkboos et al., *SliceGPT* (arXiv 2401.15024) and *QuaRot* (arXiv 2404.00456).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.illama import Illama
from .fold_norms import FOLD_NORMS
from .hadamard import random_rotation
from .rewrite import Rewrite

__all__ = ["ROTATE_RESIDUAL"]


@torch.no_grad()
def _draw(model: Illama, generator: torch.Generator) -> None:
    FOLD_NORMS.fold(model)
    rotation = random_rotation(model.config.dim, generator)
    for stream in (model.cls_token, model.pos_embed):
        stream.copy_((stream.double() @ rotation).float())
    writes: list[nn.Linear | nn.Conv2d] = [model.patch_embed.proj]
    reads = [read for _, _, read in model.reads()]
    for block in model.blocks:
        writes += [block.attn.proj, block.mlp.fc2]
        reads += [block.attn.qkv, block.mlp.fc1, block.mlp.fc3]
    for module in writes:
        rotate_outputs(module, rotation)
    for linear in reads:
        linear.weight.copy_((linear.weight.double() @ rotation).float())


def rotate_outputs(module: nn.Linear | nn.Conv2d, rotation: Tensor) -> None:
    """y becomes y R: weight Rᵀ W, bias b R."""
    turned = rotation.T @ module.weight.double().flatten(1)
    module.weight.copy_(turned.view(module.weight.shape).float())
    if module.bias is not None:
        module.bias.copy_((module.bias.double() @ rotation).float())


ROTATE_RESIDUAL = Rewrite("rotate_residual", draw=_draw)
