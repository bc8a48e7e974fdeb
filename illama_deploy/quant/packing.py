"""Integers of 2 and 4 bits, packed into bytes for storage (3 bits take 4)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack", "packed_bits", "unpack"]


def packed_bits(bits: int) -> int:
    """Bits that an integer of `bits` bits takes in a file."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def pack(integers: Tensor, bits: int) -> Tensor:
    """Pack int8 [...] of 2 or 4 bits each, flattened, first element lowest: uint8 [ceil(numel · bits / 8)]."""
    per_byte = 8 // bits
    fields = integers.flatten().to(torch.uint8) & (2**bits - 1)
    fields = torch.nn.functional.pad(fields, (0, -len(fields) % per_byte)).view(-1, per_byte)
    packed = torch.zeros(len(fields), dtype=torch.uint8)
    for position in range(per_byte):
        packed |= fields[:, position] << (bits * position)
    return packed


def unpack(packed: Tensor, shape: torch.Size, bits: int) -> Tensor:
    """Undo `pack`: int8 of `shape`."""
    per_byte = 8 // bits
    fields = torch.stack([(packed >> (bits * position)) & (2**bits - 1) for position in range(per_byte)], 1)
    signed = fields.flatten()[: shape.numel()].to(torch.int16)
    return torch.where(signed >= 2 ** (bits - 1), signed - 2**bits, signed).to(torch.int8).view(shape)
