"""Block reconstruction: learn a block's integers, step sizes and biases against what the float block puts out.

    least ‖B_q(X_q) - B_f(X_f)‖²

over the calibration images, with X_q from the quantized blocks before and X_f from the float ones, so that a block also
makes good for those before it. After BRECQ (Li et al., arXiv 2102.05426), with integers learned as in EfficientQAT's
block-wise stage (arXiv 2407.11062) instead of AdaRound's two choices.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..progress import track
from .learnable import LearnableWeighted, freeze, make_learnable
from .quality import sqnr_db

__all__ = ["Reconstructed", "reconstruct_block"]

BATCH = 32
#: Of the weights (in steps of theirs) and of the other parameters (logarithms of step sizes, biases).
LR_INTEGERS, LR_STEPS = 3e-2, 1e-2
#: One image of so many is kept to see whether the block got better.
HELD_OUT = 8


class Reconstructed(NamedTuple):
    """SQNR of a block's output on images held out, in dB, before and after; what got worse was undone."""

    before_db: float
    after_db: float


def reconstruct_block(
    block: nn.Module,
    reference: nn.Module,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    shared: Sequence[Sequence[str]],
    steps: int,
    seed: int,
    name: str,
) -> Reconstructed:
    """Learn the quantized modules of `block`, in place.

    Args:
        reference: the float block; its weights are where the integers came from.
        inputs: what the quantized network gives to the block, [images, tokens, channels] each.
        targets: what the float network's block makes of its own inputs, in the same order.
        shared: layers of the block that take one input, by name.
        steps: of Adam, on 32 images each.
        seed, name: choose the images of each step; the name also stands on the progress bar.
    """
    kept = len(inputs) // HELD_OUT
    learn, held = range(len(inputs) - kept), range(len(inputs) - kept, len(inputs)) if kept else range(len(inputs))
    before = _sqnr(block, inputs, targets, held)
    state = {key: value.clone() for key, value in block.state_dict().items()}
    with torch.enable_grad():
        make_learnable(block, reference, shared)
        _learn(block, inputs, targets, learn, steps, seed, name)
    freeze(block)
    after = _sqnr(block, inputs, targets, held)
    if not after >= before:  # NaN is no gain
        block.load_state_dict(state)
    return Reconstructed(before, max(before, after))


def _learn(
    block: nn.Module,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    chunks: range,
    steps: int,
    seed: int,
    name: str,
) -> None:
    groups: list[dict[str, Any]] = [
        {"params": [module.weight], "lr": LR_INTEGERS * float(module.weight_step.start.mean())}
        for module in block.modules()
        if isinstance(module, LearnableWeighted)
    ]
    groups.append(
        {"params": [p for n, p in block.named_parameters() if n.endswith((".theta", ".bias"))], "lr": LR_STEPS}
    )
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    images = [(chunk, row) for chunk in chunks for row in range(len(inputs[chunk]))]
    power = sum(float(targets[chunk].double().square().sum()) for chunk in chunks)
    power /= sum(targets[chunk].numel() for chunk in chunks)
    choice = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    for _ in track(range(steps), f"Reconstructing {name}", steps):
        chosen = [images[i] for i in torch.randint(len(images), (BATCH,), generator=choice).tolist()]
        x, y = (torch.stack([part[chunk][row] for chunk, row in chosen]) for part in (inputs, targets))
        loss = (block(x) - y).square().mean() / power
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _sqnr(block: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Tensor], chunks: range) -> float:
    noise = sum(float((block(inputs[i]) - targets[i]).double().square().sum()) for i in chunks)
    return sqnr_db(sum(float(targets[i].double().square().sum()) for i in chunks), noise)
