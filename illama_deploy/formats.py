"""Number formats as frozen values: `W8A8` says it all.

Integers are symmetric (zero point 0) everywhere, so that the same integers serve every target and only
their spelling changes (S8 with zero point 0, or U8 with zero point 128).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UsageError

__all__ = ["FORMATS", "W8A8", "Format", "IntType", "parse_format"]


@dataclass(frozen=True)
class IntType:
    """A signed two's-complement integer of `bits` bits."""

    bits: int

    @property
    def qmin(self) -> int:
        """Smallest representable integer."""
        return -(2 ** (self.bits - 1))

    @property
    def qmax(self) -> int:
        """Largest representable integer; a clipping threshold maps onto it."""
        return 2 ** (self.bits - 1) - 1

    def __str__(self) -> str:
        return f"int{self.bits}"


@dataclass(frozen=True)
class Format:
    """Weights (`W`) and activations (`A`) of a quantized GEMM."""

    weights: IntType
    activations: IntType

    @property
    def name(self) -> str:
        """The field's name for it, such as `W8A8`."""
        return f"W{self.weights.bits}A{self.activations.bits}"

    def __str__(self) -> str:
        return self.name


W8A8 = Format(IntType(8), IntType(8))

#: Formats that `quantize` can make.
FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (W8A8,)}


def parse_format(name: str) -> Format:
    """Look a format up by its name, `W8A8` or `8` (both at that width).

    Raises:
        UsageError: no such format; the message lists those that exist.
    """
    key = f"W{name}A{name}" if re.fullmatch(r"\d+", name) else name.upper()
    try:
        return FORMATS[key]
    except KeyError:
        known = ", ".join(FORMATS)
        widths = ", ".join(str(f.weights.bits) for f in FORMATS.values() if f.weights == f.activations)
        raise UsageError(
            f"There is no quantized format {name!r}.",
            hint=f"Use one of: {known} (with --bits: {widths}).",
        ) from None
