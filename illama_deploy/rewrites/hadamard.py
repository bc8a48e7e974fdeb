"""Orthogonal matrices that spread outliers: Hadamard matrices with random signs.

A Hadamard matrix of order n has entries ±1 and orthogonal rows. Sylvester's construction doubles one; Paley's two give
orders q + 1 (q ≡ 3 mod 4 prime) and 2(q + 1) (q ≡ 1 mod 4 prime), so that every width of the published geometries has
one: 192 = 12·16, 384 = 12·32, 768 = 12·64, 1024.

Where there is none and nothing may be drawn, Hartley's matrix cos + sin (2π·ij/n) serves: orthogonal and symmetric for
any order, no entry above √2 times a Hadamard matrix's.

Sources: R. Paley, *On Orthogonal Matrices* (1933); R. Hartley, *A More Symmetrical Fourier Analysis Applied to
Transmission Problems* (1942); Ashkboos et al., *QuaRot* (arXiv 2404.00456) for their use here.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fixed_rotation", "hadamard", "random_rotation"]


def hadamard(order: int) -> Tensor | None:
    """A Hadamard matrix, float64 [order, order] of ±1; None where neither construction gives one."""
    doublings = 0
    while True:
        base = _base(order >> doublings)
        if base is not None:
            break
        if (order >> doublings) % 2:
            return None
        doublings += 1
    for _ in range(doublings):
        base = torch.cat((torch.cat((base, base), 1), torch.cat((base, -base), 1)))
    return base


def random_rotation(order: int, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix, float64 [order, order]: Hadamard after random signs, or any where there is none."""
    found = hadamard(order)
    if found is None:
        # Signs of R's diagonal make the distribution uniform (Mezzadri, arXiv math-ph/0609050).
        q, r = torch.linalg.qr(torch.randn(order, order, generator=generator, dtype=torch.float64))
        return q * r.diagonal().sign()
    signs = torch.randint(0, 2, (order, 1), generator=generator, dtype=torch.float64) * 2 - 1
    return signs * found / order**0.5


def fixed_rotation(order: int) -> Tensor:
    """An orthogonal matrix that follows from its order alone, float64 [order, order]: Hadamard's, else Hartley's."""
    found = hadamard(order)
    if found is None:
        steps = torch.arange(order)
        # The product modulo the order keeps the angles small and exact.
        angles = (steps[:, None] * steps % order).double() * (2 * torch.pi / order)
        found = angles.cos() + angles.sin()
    return found / order**0.5


def _base(order: int) -> Tensor | None:
    if order in (1, 2):
        return torch.tensor([[1.0]] if order == 1 else [[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if order % 4:
        return None
    if _is_prime(order - 1):  # then order - 1 ≡ 3 mod 4
        skew = torch.zeros(order, order, dtype=torch.float64)
        skew[0, 1:], skew[1:, 0] = 1.0, -1.0
        skew[1:, 1:] = _jacobsthal(order - 1)
        return skew + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if half % 4 == 2 and _is_prime(half - 1):  # then half - 1 ≡ 1 mod 4
        conference = torch.zeros(half, half, dtype=torch.float64)
        conference[0, 1:] = conference[1:, 0] = 1.0
        conference[1:, 1:] = _jacobsthal(half - 1)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(conference, plus) + torch.kron(torch.eye(half, dtype=torch.float64), zero)
    return None


def _jacobsthal(q: int) -> Tensor:
    """χ(i - j) mod q, with χ = 1 for squares, -1 for others and 0 for 0."""
    character = torch.full((q,), -1.0, dtype=torch.float64)
    character[torch.arange(1, q) ** 2 % q] = 1.0
    character[0] = 0.0
    positions = torch.arange(q)
    return character[(positions[:, None] - positions) % q]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))
