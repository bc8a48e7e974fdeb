"""What a target is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from ...errors import ExportError, UsageError
from ...formats import Format
from ...model.illama import Illama
from ...quant import quantized_modules, weight_only
from ...versions import LOWEST
from ..passes import SoundConstants
from ..proofs import KernelProof

__all__ = ["Missing", "Target", "lowest"]

Passes = Callable[[Illama], Sequence[ir.passes.PassBase]]


def _none(network: Illama) -> Sequence[ir.passes.PassBase]:
    return ()


def lowest(*packages: str) -> dict[str, str]:
    """The lowest versions of those packages that load our files; the first is the target's own."""
    return {package: LOWEST[package] for package in packages}


@dataclass(frozen=True)
class Missing:
    """Why a target has no kernel for a format.

    Attributes:
        why: in words.
        nearest: the closest format (or choice) that it does run.
        can_simulate: whether a file with Q/DQ can stand for it, to measure accuracy.
    """

    why: str
    nearest: str
    can_simulate: bool = True


@dataclass(frozen=True)
class Target:
    """A runtime to export for.

    Attributes:
        name: as `export` takes it.
        runtime: its name for people.
        folder: name of the workspace's folder that its files go to.
        graph: a network, float or quantized, to its float graph in the layout that this runtime likes.
        passes: what makes the target's form of that graph.
        batching: passes after those, which change only how a batch is cut up.
        float_format: format of the float file beside the quantized one.
        lowest: the lowest version of each package that loads its files, as the files say.
        kernels: formats (`Format.base`) that it has kernels for, each with what runs it.
        missing: the other formats.
        weight_only: formats of which its GEMMs take the weights alone, with activations in floating point; each with
            what that is called. What is no GEMM of weights stays, and needs an entry of its own in one of the others.
        prove: inspects what the runtime makes of a file with these quantized sites; None where only a GPU could tell.
    """

    name: str
    runtime: str
    folder: str
    graph: Callable[[Illama], ir.Model]
    passes: Passes
    batching: Passes = _none
    float_format: str = "float32"
    lowest: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, Missing] = field(default_factory=dict)
    weight_only: Mapping[str, str] = field(default_factory=dict)
    prove: Callable[[Path, Mapping[str, Format]], KernelProof] | None = None

    def network(self, network: Illama) -> Illama:
        """What this target computes of a network: the same, or the same integers with activations in floating point."""
        return weight_only(network, self.weight_only)

    def spelled(self, formats: Iterable[Format]) -> dict[str, str]:
        """What becomes of formats of which the target takes the weights alone, by their names (`Format.base`)."""
        present = {format_.base for format_ in formats}
        return {base: how for base, how in self.weight_only.items() if base in present}

    def runs(self, base: str) -> str | None:
        """What runs a format here, or None."""
        return self.weight_only.get(base) or self.kernels.get(base)

    def label(self, name: str, formats: Iterable[Format]) -> str:
        """The name of an artifact's format for a file of this target, such as `W4A8 as INT4 weight-only …`."""
        for base, how in self.spelled(formats).items():
            name += f" as {how}" if name == base else f", {base} as {how}"
        return name

    def build(self, network: Illama, *, whole: bool = True) -> ir.Model:
        """The target's graph of a network (see `network`); without the batching passes unless `whole`.

        Raises:
            ExportError: a pass cannot do its work on this network.
        """
        network = self.network(network)
        passes = (*self.passes(network), SoundConstants(), *(self.batching(network) if whole else ()))
        try:
            return ir.passes.Sequential(*passes)(self.graph(network)).model
        except (ir.passes.PassError, ir.passes.InvariantError) as error:
            cause = error.__cause__ or error
            raise ExportError(
                f"The graph cannot be brought into the form of {self.name}: {cause}.",
                hint="Leave the site that it names in float (quantize --exclude), or choose another target.",
            ) from error

    def simulates(self, network: Illama, *, allowed: bool) -> bool:
        """Whether some of the network's formats have no kernel here, and the file only simulates them.

        Raises:
            UsageError: that is so and not `allowed`, or a format cannot even be simulated; the nearest that works
                is named.
        """
        formats = [module.format for _, module in quantized_modules(self.network(network))]
        simulated = False
        for base, _ in Counter(format_.base for format_ in formats).most_common():
            if base in self.kernels:
                continue
            gap = self.missing[base]
            if not (allowed and gap.can_simulate):
                raise UsageError(
                    f"{self.runtime} has no kernel for {base}: {gap.why}.",
                    hint=f"The nearest that works is {gap.nearest}"
                    + ("; --simulate exports it for accuracy only." if gap.can_simulate else "."),
                )
            simulated = True
        return simulated
