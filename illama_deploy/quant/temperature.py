"""Divide a network's logits by a temperature, exactly: its head's weight and bias are divided, and nothing is added.

Of a quantized head only scales change. The integers stay, the bias too: it is an integer at the scale of the products.
"""

from __future__ import annotations

import torch
from torch import nn

from ..model.illama import Illama
from .modules import QuantLinear

__all__ = ["divide_logits"]


@torch.no_grad()
def divide_logits(model: Illama, temperature: float) -> None:
    """Fold 1 / temperature into the head of a float or quantized network, in place; each value is rounded once."""
    head = model.get_submodule("head")
    assert isinstance(head, QuantLinear | nn.Linear)
    for value in (head.weight_scale if isinstance(head, QuantLinear) else head.weight, head.bias):
        if value is not None:
            value.copy_(value.double() / temperature)
