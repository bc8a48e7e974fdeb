"""RMSNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NORM_EPS", "RMSNorm"]

NORM_EPS = 1e-6


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 at least (half precision collapses it)."""

    def __init__(self, dim: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return F.rms_norm(wide, (x.shape[-1],), eps=self.eps).type_as(x) * self.weight
