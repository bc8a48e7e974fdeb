"""What a state dict says of the network it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, parameter
from ..model.illama import Illama, IllamaConfig
from ..model.structure import image_tokens
from ..model.upernet import LEVELS
from ..preprocessing import LARGEST_SIDE

__all__ = [
    "PATCHES",
    "check_shapes",
    "infer_config",
    "interpolate_positions",
    "require_room",
    "require_shapes",
    "resample_patches",
]

HEAD_DIM = 64  # of all published geometries
PATCHES = "patch_embed.proj.weight"
NEEDED = ("cls_token", "pos_embed", PATCHES, "blocks.0.mlp.fc1.weight")
#: One of them says what the head is: of images, or (a UperNet's) of pixels.
HEADS = {"head.weight": 2, "head.classifier.weight": 4}
#: A block's number, as it is written here, and the rest of the key.
BLOCK = re.compile(r"blocks\.(0|[1-9]\d{0,8})\.(.+)", re.DOTALL)
#: Bytes that masks and rotary tables may take whatever the weights do.
ROOM = 2**30

#: Keys of a state dict to the shapes of their tensors.
Shapes = Mapping[str, tuple[int, ...]]


def infer_config(
    shapes: Shapes,
    *,
    heads: int | None = None,
    trained_size: tuple[int, int] | None = None,
    variation: Mapping[str, str] | None = None,
    where: object | None = None,
) -> IllamaConfig:
    """Read the geometry off the tensors' shapes: the one that the network was trained at.

    Args:
        shapes: key to shape, of a state dict.
        heads: number of heads; dim / 64 where not given.
        trained_size: the trained (height, width); a square one is inferred where not given.
        variation: options of `IllamaConfig` in which the network differs from iLLaMA.

    Raises:
        CheckpointError: keys are missing, or shapes cannot belong to an iLLaMA.
    """
    head = next((key for key in HEADS if key in shapes), "head.weight")
    if absent := [key for key in (*NEEDED, head) if key not in shapes]:
        raise CheckpointError(
            f"This is not an iLLaMA checkpoint: it lacks {', '.join(absent)}.",
            where=where,
            hint="Give the file that the authors' training code (or this package) wrote.",
        )
    patch, positions, fc1 = shapes[NEEDED[2]], shapes["pos_embed"], shapes[NEEDED[3]]
    for name, rank in ((NEEDED[2], 4), ("pos_embed", 3), (NEEDED[3], 2), (head, HEADS[head])):
        if len(shapes[name]) != rank or not all(shapes[name]):
            raise CheckpointError(
                f"{name} has shape {list(shapes[name])[:8]}; {rank} axes are needed, none of them empty.",
                where=where,
                hint="Check that the file is an iLLaMA.",
            )
    dim, channels, patch_size, _ = patch
    image_size = _trained_size(positions[1] - 1, patch_size, trained_size, where)
    if heads is None:
        if dim % HEAD_DIM:
            raise CheckpointError(
                f"Width {dim} is no multiple of {HEAD_DIM}, so the number of heads cannot be inferred.",
                where=where,
                hint=f"Say it with {parameter('heads')}.",
            )
        heads = dim // HEAD_DIM
    if heads < 1 or dim % heads or (dim // heads) % 2:
        raise CheckpointError(
            f"Width {dim} does not split into {heads} heads of an even size.",
            where=where,
            hint=f"Use another {parameter('heads')}.",
        )
    depth = _count_blocks(shapes, where)
    head_width = shapes[head][1] if HEADS[head] == 4 else 0
    if head_width:
        _check_fit(shapes, dim, depth, where)
    return IllamaConfig(
        dim=dim,
        depth=depth,
        heads=heads,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
        classes=shapes[head][0],
        hidden=fc1[0],
        head_width=head_width,
        **(variation or {}),
    )


def _trained_size(count: int, patch_size: int, said: tuple[int, int] | None, where: object | None) -> tuple[int, int]:
    """The image size that `count` positions were trained at: what was said, or a square."""
    if said is not None:
        if _tokens(said, patch_size) != count:
            raise CheckpointError(
                f"pos_embed has {count} image positions, which {said[0]}×{said[1]} px in patches of {patch_size} "
                "are not.",
                where=where,
                hint=f"{_grids(count, patch_size)}",
            )
        return said
    side = math.isqrt(max(count, 0))
    if side * side != count or count < 1:
        raise CheckpointError(
            f"pos_embed has {count} image positions, which is no square grid, and the file does not say which one.",
            where=where,
            hint=_grids(count, patch_size),
        )
    return side * patch_size, side * patch_size


def _grids(count: int, patch_size: int) -> str:
    """What to type where the grid of so many positions is not known; the least oblong first."""
    rows = [row for row in range(math.isqrt(max(count, 0)), 0, -1) if count % row == 0][:2]
    grids = [grid for row in rows for grid in ((row, count // row), (count // row, row))]
    sizes = [f"{height * patch_size}x{width * patch_size}" for height, width in grids]
    return (
        f"Say the trained size, as {parameter(image_size='HEIGHTxWIDTH')}: "
        f"{' or '.join(dict.fromkeys(sizes)) or 'none fits'}."
    )


def _count_blocks(shapes: Shapes, where: object | None) -> int:
    """Blocks that the keys name, every one of them like the first.

    Raises:
        CheckpointError: a block is missing, or differs.
    """
    blocks: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if match := BLOCK.match(key):
            blocks.setdefault(int(match[1]), {})[match[2]] = shape
    for number in range(len(blocks)):
        if number not in blocks:
            raise CheckpointError(
                f"The keys name {len(blocks)} blocks, up to blocks.{max(blocks)}, and blocks.{number} is missing.",
                where=where,
                hint="Check that the file is a complete iLLaMA.",
            )
    return len(blocks)


def _check_fit(shapes: Shapes, dim: int, depth: int, where: object | None) -> None:
    """Hold a UperNet to the backbone that it stands on.

    Raises:
        CheckpointError: it was made for another width, or reads more blocks than there are.
    """
    made_for = {shapes[key][-1:] for key in shapes if re.fullmatch(r"head\.reads\.\d{1,4}\.weight", key)}
    if (others := made_for - {(dim,)}) or depth < LEVELS:
        own = f"it reads features of width {max(others)[0]}" if max(others, default=()) else f"it reads {LEVELS} depths"
        raise CheckpointError(
            f"The segmentation head does not fit the backbone: {own}, and the backbone has width {dim} and {depth} "
            "blocks.",
            where=where,
            hint="Give backbone and head of one training.",
        )


def check_shapes(shapes: Shapes, config: IllamaConfig, *, where: object | None = None) -> None:
    """Compare keys and shapes with what the network needs, before anything of it is made.

    Raises:
        CheckpointError: naming the keys that are missing, unexpected or misshapen.
    """
    require_shapes(shapes, _expected(config), where=where)


def require_shapes(shapes: Shapes, expected: Shapes, *, where: object | None = None) -> None:
    """The same, of keys and shapes that are known.

    Raises:
        CheckpointError: naming the keys that are missing, unexpected or misshapen.
    """
    problems = [f"missing: {key}" for key in expected if key not in shapes]
    problems += [f"unexpected: {key[:120]}" for key in shapes if key not in expected]
    problems += [
        f"misshapen: {key} is {list(shapes[key])[:8]}, needs {list(shape)}"
        for key, shape in expected.items()
        if key in shapes and tuple(shapes[key]) != shape
    ]
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise CheckpointError(
            "The checkpoint's keys do not fit the network:\n    " + "\n    ".join(shown),
            where=where,
            hint="Check that the file is a complete network of one geometry.",
        )


def _expected(config: IllamaConfig) -> dict[str, tuple[int, ...]]:
    """Key to shape; a network of few blocks is made and its first block's repeated, since a file may name many."""
    with torch.device("meta"):
        # One position: masks and rotary tables are of the size of what the file says.
        small = replace(config, depth=min(config.depth, LEVELS), image_size=_smallest(config))
        shapes = {key: tuple(tensor.shape) for key, tensor in Illama(small).state_dict().items()}
    shapes["pos_embed"] = (1, config.tokens, config.dim)
    first = {match[2]: shape for key, shape in shapes.items() if (match := BLOCK.match(key)) and match[1] == "0"}
    rest = {key: shape for key, shape in shapes.items() if not BLOCK.match(key)}
    return {**rest, **{f"blocks.{i}.{key}": shape for i in range(config.depth) for key, shape in first.items()}}


def _smallest(config: IllamaConfig) -> tuple[int, int]:
    side = config.patch_size * (2 if config.head_width else 1)
    return side, side


def require_room(config: IllamaConfig, weights: int, *, where: object | None = None, hint: str) -> None:
    """Refuse a network whose masks and tables outweigh its weights by far: a small file may ask for any number of
    tokens, and each block has a mask of their square.

    Args:
        weights: bytes of its weights.

    Raises:
        CheckpointError: saying what they would take.
    """
    S = config.tokens
    tables = 4 * config.depth * (S * S + S * config.head_dim)
    if tables > ROOM + 16 * weights or max(config.image_size) > LARGEST_SIDE:
        height, width = config.image_size
        raise CheckpointError(
            f"Images of {height}×{width} px in patches of {config.patch_size} are {S} tokens: the masks of "
            f"{config.depth} blocks alone take {tables / 2**30:.1f} GiB.",
            where=where,
            hint=hint,
        )


def interpolate_positions(
    pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], class_index: int = -1
) -> Tensor:
    """Resize a position embedding [1, N+1, E] from grid `old` to `new`: bicubic, the class token's row kept.

    Args:
        class_index: where the class token stands, -1 or 0.
    """
    if old == new:
        return pos_embed
    image, own = pos_embed[:, image_tokens(class_index)], pos_embed[:, class_index, None]
    planes = image.reshape(1, *old, -1).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=new, mode="bicubic", align_corners=False, antialias=False)
    rows = planes.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat((rows, own) if class_index else (own, rows), 1)


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
