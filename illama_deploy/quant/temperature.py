"""Divide a network's logits by a temperature, exactly: its head's weight and bias are divided, and nothing is added.

Of a quantized head only scales change. The integers stay, the bias too: it is an integer at the scale of the products.
"""

from __future__ import annotations

import torch
from torch import nn

from ..model.network import Network
from .modules import QuantWeighted

__all__ = ["divide_logits"]


@torch.no_grad()
def divide_logits(model: Network, temperature: float) -> None:
    """Fold 1 / temperature into the head of a float or quantized network, in place; each value is rounded once.

    Of a UperNet that is its classifier: resizing is linear.
    """
    for head in model.classifiers:
        assert isinstance(head, QuantWeighted | nn.Linear | nn.Conv2d)
        for value in (head.weight_scale if isinstance(head, QuantWeighted) else head.weight, head.bias):
            if value is not None:
                value.copy_(value.double() / temperature)
