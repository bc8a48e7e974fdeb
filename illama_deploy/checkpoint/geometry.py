"""What a state dict says of the network it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError
from ..model.illama import Illama, IllamaConfig
from ..model.upernet import LEVELS

__all__ = ["PATCHES", "check_state", "infer_config", "interpolate_positions", "resample_patches"]

HEAD_DIM = 64  # of all published geometries
PATCHES = "patch_embed.proj.weight"
NEEDED = ("cls_token", "pos_embed", PATCHES, "blocks.0.mlp.fc1.weight")
#: One of them says what the head is: of images, or (a UperNet's) of pixels.
HEADS = {"head.weight": 2, "head.classifier.weight": 4}


def infer_config(
    state: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    variation: Mapping[str, str] | None = None,
    where: object | None = None,
) -> IllamaConfig:
    """Read the geometry off the tensors' shapes: the one that the network was trained at.

    Args:
        heads: number of heads; dim / 64 where not given.
        image_size: the trained (height, width); a square one is inferred where not given.
        variation: options of `IllamaConfig` in which the network differs from iLLaMA.

    Raises:
        CheckpointError: keys are missing, or shapes cannot belong to an iLLaMA.
    """
    head = next((key for key in HEADS if key in state), "head.weight")
    if absent := [key for key in (*NEEDED, head) if key not in state]:
        raise CheckpointError(
            f"This is not an iLLaMA checkpoint: it lacks {', '.join(absent)}.",
            where=where,
            hint="Give the file that the authors' training code (or this package) wrote.",
        )
    patch, positions, fc1 = state[NEEDED[2]], state["pos_embed"], state[NEEDED[3]]
    for name, tensor, rank in (
        (NEEDED[2], patch, 4),
        ("pos_embed", positions, 3),
        (NEEDED[3], fc1, 2),
        (head, state[head], HEADS[head]),
    ):
        if tensor.ndim != rank:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}; {rank} axes are needed.",
                where=where,
                hint="Check that the file is an iLLaMA.",
            )
        if tensor.layout is not torch.strided or not tensor.numel():
            raise CheckpointError(f"{name} is sparse or empty.", where=where, hint="Save plain, dense tensors.")
    dim, channels, patch_size, _ = patch.shape
    count = positions.shape[1] - 1
    if image_size is None or _tokens(image_size, patch_size) != count:
        side = math.isqrt(max(count, 0))
        if side * side != count or count < 1:
            raise CheckpointError(
                f"pos_embed has {count} image positions, which is no square grid.",
                where=where,
                hint="Say the trained size with --image-size HEIGHTxWIDTH.",
            )
        image_size = (side * patch_size, side * patch_size)
    if heads is None:
        if dim % HEAD_DIM:
            raise CheckpointError(
                f"Width {dim} is no multiple of {HEAD_DIM}, so the number of heads cannot be inferred.",
                where=where,
                hint="Say it with --heads.",
            )
        heads = dim // HEAD_DIM
    if heads < 1 or dim % heads or (dim // heads) % 2:
        raise CheckpointError(
            f"Width {dim} does not split into {heads} heads of an even size.",
            where=where,
            hint="Use another --heads.",
        )
    depth = 1 + max((int(m[1]) for key in state if (m := re.match(r"blocks\.(\d+)\.", key))), default=0)
    head_width = state[head].shape[1] if HEADS[head] == 4 else 0
    if head_width:
        _check_fit(state, dim, depth, where)
    return IllamaConfig(
        dim=dim,
        depth=depth,
        heads=heads,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
        classes=state[head].shape[0],
        hidden=fc1.shape[0],
        head_width=head_width,
        **(variation or {}),
    )


def _check_fit(state: Mapping[str, Tensor], dim: int, depth: int, where: object | None) -> None:
    """Hold a UperNet to the backbone that it stands on.

    Raises:
        CheckpointError: it was made for another width, or reads more blocks than there are.
    """
    made_for = {state[key].shape[-1] for key in state if re.fullmatch(r"head\.reads\.\d+\.weight", key)}
    if made_for - {dim} or depth < LEVELS:
        own = f"it reads features of width {max(made_for - {dim})}" if made_for - {dim} else f"it reads {LEVELS} depths"
        raise CheckpointError(
            f"The segmentation head does not fit the backbone: {own}, and the backbone has width {dim} and {depth} "
            "blocks.",
            where=where,
            hint="Give backbone and head of one training.",
        )


def check_state(state: Mapping[str, Tensor], config: IllamaConfig, *, where: object | None = None) -> None:
    """Compare keys, shapes and values with what the network needs.

    Raises:
        CheckpointError: naming the keys that are missing, unexpected, misshapen, or hold NaN or infinity.
    """
    with torch.device("meta"):
        expected = {key: tuple(t.shape) for key, t in Illama(config).state_dict().items()}
    problems = [f"missing: {key}" for key in expected if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in expected]
    problems += [
        f"misshapen: {key} is {list(state[key].shape)}, needs {list(shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise CheckpointError(
            "The checkpoint's keys do not fit the network:\n    " + "\n    ".join(shown),
            where=where,
            hint="Check that the file is a complete iLLaMA of one geometry.",
        )
    if sparse := [key for key, tensor in state.items() if tensor.layout is not torch.strided]:
        raise CheckpointError(
            f"Sparse tensors: {', '.join(sparse[:8])}.", where=where, hint="Save plain, dense tensors."
        )
    if bad := [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(
            f"NaN or infinite values in {', '.join(bad[:8])}" + (f" and {len(bad) - 8} more." if len(bad) > 8 else "."),
            where=where,
            hint="Use an earlier checkpoint of the same training.",
        )


def interpolate_positions(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize a position embedding [1, N+1, E] from grid `old` to `new`: bicubic, the class token's row kept."""
    if old == new:
        return pos_embed
    image, last = pos_embed[:, :-1], pos_embed[:, -1:]
    planes = image.reshape(1, *old, -1).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=new, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat((planes.permute(0, 2, 3, 1).flatten(1, 2), last), 1)


def resample_patches(weight: Tensor, patch_size: int) -> Tensor:
    """Resample a patch embedding's kernel [E, C, p, p]: it gives for an enlarged patch what it gave for the patch.

    Source: Beyer et al., *FlexiViT* (arXiv 2212.08013), PI-resize.
    """
    from timm.layers.patch_embed import resample_patch_embed

    return resample_patch_embed(weight, [patch_size, patch_size])


def _tokens(image_size: tuple[int, int], patch_size: int) -> int | None:
    if any(side % patch_size or side < patch_size for side in image_size):
        return None
    return (image_size[0] // patch_size) * (image_size[1] // patch_size)
