"""Number formats as frozen values: `W8A8` says it all.

Integers are symmetric (zero point 0) everywhere, so that the same integers serve every target and only
their spelling changes (S8 with zero point 0, or U8 with zero point 128).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import UsageError, parameter

__all__ = [
    "BITS",
    "FORMATS",
    "FP8",
    "W4A16",
    "W8A8",
    "FloatType",
    "Format",
    "IntType",
    "NumberType",
    "is_simulated",
    "label_simulated",
    "parse_format",
]


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
class FloatType:
    """FP8 with 4 bits of exponent and 3 of mantissa, no infinities (ONNX FLOAT8E4M3FN)."""

    bits: int = 8

    @property
    def qmin(self) -> float:
        """Smallest finite value."""
        return -448.0

    @property
    def qmax(self) -> float:
        """Largest finite value; a clipping threshold maps onto it."""
        return 448.0

    def __str__(self) -> str:
        return "float8_e4m3fn"


NumberType = IntType | FloatType

#: Below this, a block of weights no longer pays for its step size, and no kernel takes it.
SMALLEST_GROUP = 16


@dataclass(frozen=True)
class Format:
    """Weights (`W`) and activations (`A`) of a quantized GEMM.

    Attributes:
        activations: None where they stay in floating point (`A16`).
        group: consecutive inputs that share a weight step size; None for whole output channels.
        dynamic: each token's activation step size is taken at run time from its own largest magnitude.
    """

    weights: NumberType
    activations: NumberType | None
    group: int | None = None
    dynamic: bool = False

    @property
    def base(self) -> str:
        """The name without the group size: what decides which kernels can run it."""
        if isinstance(self.weights, FloatType):
            return "FP8"
        bits = 16 if self.activations is None else self.activations.bits
        return f"W{self.weights.bits}A{bits}" + ("-dynamic" if self.dynamic else "")

    @property
    def name(self) -> str:
        """The field's name for it, such as `W8A8` or `W4A16-g64`."""
        if self.activations is not None or self.group == DEFAULT_GROUP.get(self.base):
            return self.base
        return f"{self.base}-" + ("channel" if self.group is None else f"g{self.group}")

    @property
    def is_static(self) -> bool:
        """Whether activations have step sizes fixed by calibration."""
        return self.activations is not None and not self.dynamic

    @property
    def is_integer(self) -> bool:
        """Whether integers times integers are added, so that the bias is an int32."""
        return self.is_static and isinstance(self.activations, IntType)

    def group_for(self, inputs: int) -> int | None:
        """Group size of a GEMM of so many inputs: the largest power of two, at most `group`, that divides them."""
        size = self.group or 0
        while size >= SMALLEST_GROUP:
            if inputs % size == 0:
                return size
            size //= 2
        return None

    def __str__(self) -> str:
        return self.name


#: What a width alone means (`--bits`): a network that CPUs and TensorRT can run.
BITS = {"8": "W8A8", "4": "W4A8"}

#: Of the weight-only formats, where no other is named.
DEFAULT_GROUP = {"W4A16": 128, "W2A16": 32}

W8A8 = Format(IntType(8), IntType(8))
W4A16 = Format(IntType(4), None, DEFAULT_GROUP["W4A16"])
FP8 = Format(FloatType(), FloatType())

#: Formats that `quantize` can make; the weight-only ones also with another group, as in `W4A16-g64`.
FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        W8A8,
        replace(W8A8, dynamic=True),
        Format(IntType(4), IntType(8)),
        Format(IntType(4), IntType(4)),
        Format(IntType(3), IntType(3)),
        W4A16,
        Format(IntType(2), None, DEFAULT_GROUP["W2A16"]),
        FP8,
    )
}
SIMULATED = " (simulated)"
_GROUP = re.compile(r"(W\dA16)-(?:G(16|32|64|128|256)|CHANNEL)")


def parse_format(name: str) -> Format:
    """Look a format up by its name: `W8A8`, `8` (see `BITS`), `W4A16-g64`, `W4A16-channel`.

    Raises:
        UsageError: no such format; the message lists those that exist.
    """
    key = BITS.get(name) or name.upper().replace("DYNAMIC", "dynamic")
    if (found := _GROUP.fullmatch(key)) and found[1] in FORMATS:
        return replace(FORMATS[found[1]], group=int(found[2]) if found[2] else None)
    try:
        return FORMATS[key]
    except KeyError:
        known = ", ".join(FORMATS)
        shown = name if len(name) <= 40 else f"{name[:40]}…"
        raise UsageError(
            f"There is no quantized format {shown!r}.",
            hint=f"Use {parameter('bits')} {' or '.join(BITS)}, or with {parameter('format')} one of: {known}; "
            "weight-only ones also as W4A16-g64 and the like.",
        ) from None


def label_simulated(name: str) -> str:
    """How a file is called that stands for a format's accuracy alone."""
    return name + SIMULATED


def is_simulated(label: str) -> bool:
    """Whether a label says so."""
    return label.endswith(SIMULATED)
