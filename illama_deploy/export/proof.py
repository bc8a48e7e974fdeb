"""What is proven of an exported file: which kernel each layer really runs on, in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ExportError
from ..formats import Format

__all__ = ["KernelProof", "LayerPrecision", "required_precision"]


@dataclass(frozen=True)
class LayerPrecision:
    """One layer of the graph that a runtime really executes.

    Attributes:
        name: in the executed graph.
        kernel: operator or primitive that runs it.
        precision: of its operands: `int8`, `int4 weights`, `float8`, `float32`, ...
        gemm: whether it multiplies matrices.
        site: the quantized site whose GEMM it is, if it is one.
    """

    name: str
    kernel: str
    precision: str
    gemm: bool = False
    site: str | None = None


@dataclass(frozen=True)
class KernelProof:
    """The layers of an executed graph, held against what the recipe quantizes.

    Attributes:
        expected: GEMM name to the precision that its site's format requires.
        layers: all layers that compute.
        fed_by_dequantize: names of float GEMMs that multiply dequantized integers; must be empty.
    """

    expected: Mapping[str, str]
    layers: tuple[LayerPrecision, ...]
    fed_by_dequantize: tuple[str, ...] = ()

    @property
    def kernels(self) -> dict[str, int]:
        """Number of quantized GEMMs by kernel."""
        return dict(Counter(layer.kernel for layer in self.layers if layer.site is not None))

    @property
    def float_gemms(self) -> tuple[str, ...]:
        """Names of GEMMs that are not quantized (the two products of attention, and sites left out)."""
        return tuple(layer.name for layer in self.layers if layer.gemm and layer.site is None)

    @property
    def missing(self) -> tuple[str, ...]:
        """GEMMs that do not run in the precision that their site requires."""
        found = Counter((layer.site, layer.precision) for layer in self.layers if layer.site is not None)
        wanted = Counter(self.expected.items())
        return tuple(name for name, precision in wanted if not found[name, precision])

    @property
    def holds(self) -> bool:
        """Whether every quantized GEMM runs in the precision that its format says."""
        return not self.missing and not self.fed_by_dequantize

    def demand(self, runtime: str, where: object) -> KernelProof:
        """Return the proof if it holds.

        Raises:
            ExportError: a quantized GEMM does not run as it should.
        """
        if not self.holds:
            raise ExportError(
                f"Not every quantized GEMM would run on a quantized kernel of {runtime}: {self}.",
                where=", ".join((*self.missing, *self.fed_by_dequantize)[:5]) or where,
                hint="This version of the runtime optimizes differently; see 'illama-deploy doctor' for its number.",
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "summary": str(self),
            "kernels": self.kernels,
            "layers": [
                {"name": layer.name, "kernel": layer.kernel, "precision": layer.precision, "site": layer.site}
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kernels.items())) or "none"
        fed = len(self.fed_by_dequantize)
        return (
            f"{sum(self.kernels.values())} of {len(self.expected)} quantized GEMMs on quantized kernels ({kinds}); "
            f"{len(self.float_gemms)} float GEMMs, {fed} of them fed by DequantizeLinear"
        )


def required_precision(format_: Format) -> str:
    """What a GEMM of this format must run in."""
    if format_.activations is None:
        return f"int{max(format_.weights.bits, 4)} weights"
    return str(format_.activations) if not format_.is_integer and not format_.dynamic else "int8"
