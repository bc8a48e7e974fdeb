"""Round weights column after column, each error made good by the columns still to come.

    least ‖(W - Ŵ) Xᵀ‖²,     H = XᵀX,     δW_rest = -(w_j - ŵ_j) / [H⁻¹]_jj · [H⁻¹]_j,rest

Sources: Frantar et al., *GPTQ* (arXiv 2210.17323): Cholesky form, damping, block-lazy updates; activation order and
static groups as in its released code. Li et al., *GPTAQ* (arXiv 2504.02692): the target is what the float network
computes, W X_fᵀ, on inputs that already carry the errors of earlier sites. GPTAQ spreads that term over the columns;
here it is solved at once: ‖W X_fᵀ - Ŵ Xᵀ‖² differs by a constant from ‖(W' - Ŵ) Xᵀ‖² with

    W' = W + W (X_f - X)ᵀX H⁻¹,

so W' is rounded as GPTQ rounds W.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..affine import quantize
from ..calib.moments import Moments
from ..formats import FloatType, NumberType
from .method import RoundedWeight, RoundingMethod
from .nearest import nearest

__all__ = ["GPTAQ", "GPTQ", "gptq"]

#: Added to the diagonal of H, as a share of its mean.
DAMPING = 0.01
#: Rows per input that the asymmetric term needs; with fewer it is fitted to noise and left out. The last block, which
#: goes on with the class token alone, has as many rows as there are images.
FEWEST_ROWS = 8
#: Columns whose errors are carried to the rest in one GEMM.
LAZY = 128


def gptq(
    weight: Tensor,
    dtype: NumberType,
    *,
    moments: Moments,
    clip: str = "mse",
    group: int | None = None,
    asymmetric: bool = False,
) -> RoundedWeight:
    """Quantize per output channel (axis 0), or per group of inputs within it, with the step sizes of `nearest`.

    Columns are taken in the order of their inputs' energy, loudest first; groups are those of the stored order.

    Args:
        weight: float32 [out, ...].
        moments: of the flattened inputs, as the quantized network sees them.
        clip, group: as in `nearest`.
        asymmetric: aim at the float network's output (needs `moments` taken against it, of enough rows).

    Raises:
        RecipeError: no such `clip`.
    """
    flat = weight.detach().float().flatten(1)
    hessian = moments.second.clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1.0
    diagonal += DAMPING * diagonal[~dead].mean() if (~dead).any() else 1.0
    if asymmetric and moments.rows >= FEWEST_ROWS * flat.shape[1]:
        flat = _aim_at_reference(flat, hessian, moments)

    scale = nearest(flat, dtype, clip=clip, group=group).scale
    steps = scale[:, None].expand_as(flat) if group is None else scale.repeat_interleave(group, 1)
    order = torch.argsort(moments.second.diagonal(), descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    # Transposed, so that a column of weights lies in one piece.
    rounded = _columns(flat.T[order].contiguous(), steps.T[order].contiguous(), factor, dtype)
    result = torch.empty_like(rounded)
    result[order] = rounded
    stored = torch.float8_e4m3fn if isinstance(dtype, FloatType) else torch.int8
    return RoundedWeight(result.T.contiguous().to(stored).view(weight.shape), scale)


def _aim_at_reference(flat: Tensor, damped: Tensor, moments: Moments) -> Tensor:
    """W', float32 [out, in]."""
    weight = flat.double()
    change = weight @ (moments.cross - moments.second)
    return (weight + torch.cholesky_solve(change.T, torch.linalg.cholesky(damped)).T).float()


def _columns(weight: Tensor, steps: Tensor, factor: Tensor, dtype: NumberType) -> Tensor:
    """Round the rows of weight [in, out] (overwritten) in order; factor: upper Cholesky factor of H⁻¹."""
    rounded = torch.empty_like(weight)
    for first in range(0, len(weight), LAZY):
        last = min(first + LAZY, len(weight))
        errors = torch.empty_like(weight[first:last])
        for j in range(first, last):
            rounded[j] = quantize(weight[j], steps[j], dtype)
            error = (weight[j] - rounded[j] * steps[j]) / factor[j, j]
            weight[j + 1 : last].addr_(factor[j, j + 1 : last], error, alpha=-1)
            errors[j - first] = error
        weight[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    return rounded


GPTQ = RoundingMethod(gptq, needs_moments=True)
GPTAQ = RoundingMethod(partial(gptq, asymmetric=True), needs_moments=True, needs_reference=True)
