"""Exact rewrites: the float function stays, what follows gets easier or cheaper. One file each.

A rewrite has two halves: `restructure` changes what the modules do (and is applied again when a quantized
network is loaded), `fold`, `balance` or `draw` moves values to match it.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence

import torch

from ..errors import RecipeError
from ..model.network import Network
from .centre_stream import CENTRE_STREAM
from .class_token_last_block import CLASS_TOKEN_LAST_BLOCK
from .fold_attention_scale import FOLD_ATTENTION_SCALE
from .fold_batch_norms import FOLD_BATCH_NORMS
from .fold_layer_scales import FOLD_LAYER_SCALES
from .fold_norms import FOLD_NORMS
from .online_rotation import OnlineRotation, online_rotations
from .rewrite import Observations, Rewrite, observed_places, row_places
from .rotate_qk_online import ROTATE_QK_ONLINE
from .rotate_residual import ROTATE_RESIDUAL
from .rotate_swiglu_online import ROTATE_SWIGLU_ONLINE
from .rotate_values import ROTATE_VALUES
from .scale_rotary_pairs import SCALE_ROTARY_PAIRS
from .search_alpha import SEARCH_SMOOTH_NORMS, SEARCH_SMOOTH_SWIGLU
from .smooth import SMOOTH_NORMS, SMOOTH_SWIGLU

__all__ = [
    "REWRITES",
    "Observations",
    "OnlineRotation",
    "Rewrite",
    "apply_rewrites",
    "find_rewrites",
    "observed_places",
    "online_rotations",
    "restructure",
    "rewrites_for",
    "row_places",
    "with_needed_rewrites",
]

REWRITES: dict[str, Rewrite] = {
    rewrite.name: rewrite
    for rewrite in (
        FOLD_BATCH_NORMS,
        FOLD_LAYER_SCALES,
        CENTRE_STREAM,
        FOLD_NORMS,
        FOLD_ATTENTION_SCALE,
        CLASS_TOKEN_LAST_BLOCK,
        ROTATE_RESIDUAL,
        ROTATE_VALUES,
        SMOOTH_NORMS,
        SMOOTH_SWIGLU,
        SEARCH_SMOOTH_NORMS,
        SEARCH_SMOOTH_SWIGLU,
        SCALE_ROTARY_PAIRS,
        ROTATE_QK_ONLINE,
        ROTATE_SWIGLU_ONLINE,
    )
}


def find_rewrites(names: Sequence[str]) -> list[Rewrite]:
    """Look rewrites up by name.

    Raises:
        RecipeError: no such rewrite.
    """
    if unknown := [name for name in names if name not in REWRITES]:
        raise RecipeError(
            f"There is no rewrite {', '.join(map(repr, unknown))}.",
            hint=f"Use some of: {', '.join(REWRITES)}.",
        )
    return [REWRITES[name] for name in names]


def rewrites_for(names: Sequence[str], model: Network) -> tuple[str, ...]:
    """Those of some rewrites that fit a network, behind those that it needs."""
    needed = [rewrite for rewrite in REWRITES.values() if rewrite.needed]
    return tuple(dict.fromkeys(r.name for r in (*needed, *find_rewrites(names)) if r.fits(model)))


def with_needed_rewrites(model: Network) -> Network:
    """The network as it may be written down: itself, or a copy with the rewrites that it needs still."""
    if needed := rewrites_for((), model):
        model = copy.deepcopy(model)
        apply_rewrites(model, needed)
    return model


def apply_rewrites(
    model: Network, names: Sequence[str], observe: Callable[[Network], Observations] | None = None, *, seed: int = 0
) -> None:
    """Apply rewrites in order, in place; those that do not fit the network are left out.

    Args:
        observe: gives observations of the network; called when the first rewrite that needs them comes up, and
            again after a rotation. Rewrites that need none work without it.
        seed: of random choices; each rewrite has its own stream of them, whatever others there are.

    Raises:
        RecipeError: a rewrite is unknown, or needs images.
    """
    observations: Observations | None = None
    for rewrite in _fitting(model, names):
        rewrite.fold(model)
        rewrite.restructure(model)
        if rewrite.draw is not None:
            # torch's generator takes no more than 32 bits of a seed.
            stream = zlib.crc32(f"{rewrite.name} {seed}".encode())
            rewrite.draw(model, torch.Generator().manual_seed(stream))
            observations = None
        if rewrite.balance is not None:
            if observations is None:
                if observe is None:
                    raise RecipeError(f"The rewrite {rewrite.name!r} needs calibration images.")
                observations = observe(model)
            rewrite.balance(model, observations)


def restructure(model: Network, names: Sequence[str]) -> None:
    """Change the structure alone, as for a network whose rewritten values will be loaded."""
    for rewrite in _fitting(model, names):
        rewrite.restructure(model)


def _fitting(model: Network, names: Sequence[str]) -> list[Rewrite]:
    return [rewrite for rewrite in find_rewrites(names) if rewrite.fits(model)]
