"""A rotation that nothing before it can carry: a float GEMM with a constant matrix, each time the network runs.

Its inverse is folded into the weights that follow. The matrix is fixed, so that loading a network needs no more than to
know that it is there; random signs are moved into the weights before it.
"""

from __future__ import annotations

from torch import Tensor, nn

from .hadamard import fixed_rotation

__all__ = ["OnlineRotation", "online_rotations", "unrotated"]


class OnlineRotation(nn.Module):
    """x R on each block of the last axis: x [..., width], R orthogonal [block, block], not stored with the network.

    Attributes:
        width, block: the second divides the first.
    """

    matrix: Tensor

    def __init__(self, width: int, block: int) -> None:
        super().__init__()
        self.width, self.block = width, block
        self.register_buffer("matrix", fixed_rotation(block).float(), persistent=False)

    @classmethod
    def of(cls, width: int, largest: int) -> OnlineRotation:
        """With the largest block up to `largest` that divides the width."""
        return cls(width, max(block for block in range(1, min(width, largest) + 1) if width % block == 0))

    def forward(self, x: Tensor) -> Tensor:
        return self._blocks(x, self.matrix)

    def undo(self, x: Tensor) -> Tensor:
        """x Rᵀ."""
        return self._blocks(x, self.matrix.T)

    def _blocks(self, x: Tensor, matrix: Tensor) -> Tensor:
        return (x.reshape(*x.shape[:-1], -1, self.block) @ matrix.to(x.dtype)).flatten(-2)


def online_rotations(model: nn.Module) -> dict[str, int]:
    """Block size of each online rotation of a network, by module name."""
    return {name: module.block for name, module in model.named_modules() if isinstance(module, OnlineRotation)}


def unrotated(place: nn.Module, weight: Tensor) -> Tensor:
    """The weight [out, in] behind a place for an online rotation, as it would be without one: float64."""
    weight = weight.detach().double()
    return place.undo(weight) if isinstance(place, OnlineRotation) else weight
