"""What a target is: everything that the rest of the product asks of a runtime that networks are shipped to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ArtifactError, ExportError, UsageError, parameter
from ..export.batches import RunFile
from ..export.proof import KernelProof
from ..formats import Format
from ..model.network import Network
from ..options.steps import ExportOptions
from ..quant import quantized_modules, weight_only
from ..runtime import ArtifactInfo, BatchLimits, Runtime
from ..runtime.onnx_file import OnnxFile
from .parity import Parity

__all__ = ["LayerTable", "Missing", "Opening", "Target", "TargetState", "explained", "layer_table"]


@dataclass(frozen=True)
class Missing:
    """Why a target has no kernel for a format.

    Attributes:
        why: in words.
        nearest: the closest format (or choice) that it does run.
        can_simulate: whether a file can stand for it all the same, to measure accuracy.
        or_float: the format of the float file, where that comes as near.
    """

    why: str
    nearest: str
    can_simulate: bool = True
    or_float: str = ""

    def instead(self) -> str:
        """What to take instead."""
        return self.nearest + (f", or {self.or_float} ({parameter('float_only')})" if self.or_float else "")


@dataclass(frozen=True)
class TargetState:
    """Whether a target can be built and run here; `None` stands for yes, a text says why not."""

    name: str
    cannot_build: str | None
    cannot_run: str | None


@dataclass(frozen=True)
class Opening:
    """How an artifact is opened.

    Attributes:
        threads: that it may use.
        precision: of what is not quantized, where the runtime lets one choose: `auto`, `bf16` or `f32`.
        cuda_graph: replay a CUDA graph for each batch size, where there is a GPU.
        chosen: whether the user named this target for it, whatever it was made for.
        onnx: what an ONNX file says of itself, where it was read already.
    """

    threads: int
    precision: str = "auto"
    cuda_graph: bool = False
    chosen: bool = False
    onnx: OnnxFile | None = None


@dataclass(frozen=True)
class LayerTable:
    """What is known of each layer of a file, as a table.

    Attributes:
        summary: lines about all of it.
        figures: the same as plain values, for JSON.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target(ABC):
    """A runtime to ship networks to.

    Attributes:
        name: its name everywhere.
        runtime: its name for people.
        folder: name of the workspace's folder that its files go to.
        suffix: of the file that a network is written to.
        kind: what that file is called.
        float_format: format of the float file beside the quantized one.
        lowest: the lowest version of each package that loads its files, as the files say; its own first.
        kernels: formats (`Format.base`) that it has kernels for, each with what runs it.
        missing: other formats (see `gap`).
        changed: formats whose weights it takes, with activations in another form than the checkpoint's; each with
            what that is called. What is no GEMM of weights stays, and needs an entry of its own in one of the others.
    """

    name: str
    runtime: str
    folder: str
    suffix: str
    kind: str
    float_format: str = "float32"
    lowest: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, Missing] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)

    # --- formats

    def network(self, network: Network) -> Network:
        """What this target computes of a network: the same, or the same integers with other activations (`changed`)."""
        return weight_only(network, self.changed)

    def spelled(self, formats: Iterable[Format]) -> dict[str, str]:
        """What becomes of the formats in `changed`, by their names (`Format.base`)."""
        present = {format_.base for format_ in formats}
        return {base: how for base, how in self.changed.items() if base in present}

    def runs(self, base: str) -> str | None:
        """What runs a format here, or None."""
        return self.changed.get(base) or self.kernels.get(base)

    def gap(self, base: str) -> Missing:
        """Why there is no kernel for a format; of one that the target has not heard of, that it has not."""
        return self.missing.get(base) or Missing(f"none is known for {base}", next(iter(self.kernels)))

    def label(self, name: str, formats: Iterable[Format]) -> str:
        """The name of an artifact's format for a file of this target, such as `W4A8 as INT4 weight-only …`."""
        for base, how in self.spelled(formats).items():
            name += f" as {how}" if name == base else f", {base} as {how}"
        return name

    def simulates(self, network: Network, *, allowed: bool) -> bool:
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
            gap = self.gap(base)
            if not (allowed and gap.can_simulate):
                raise UsageError(
                    f"{self.runtime} has no kernel for {base}: {gap.why}.",
                    hint=f"The nearest that works is {gap.instead()}"
                    + (f"; {parameter(simulate=True)} exports it for accuracy only." if gap.can_simulate else "."),
                )
            simulated = True
        return simulated

    # --- export

    @property
    def tried_in(self) -> str:
        """What runs its files on this machine's CPU while they are proven."""
        return self.runtime

    @abstractmethod
    def write(self, network: Network, path: Path, about: Mapping[str, str]) -> list[Path]:
        """Write a network (see `network`) to a file that says what it is; return all files, that one first.

        Raises:
            ExportError: it cannot be brought into the target's form; nothing is left.
        """

    @abstractmethod
    def load(self, path: Path, *, fp8: bool = False) -> RunFile:
        """Load a file that was just written on this machine's CPU, to hold it to what it promises.

        Args:
            fp8: it has FP8 operands.

        Raises:
            RuntimeUnavailableError: the runtime is not installed, or too old.
            ExportError: it refuses the file.
        """

    def prove(self, path: Path, sites: Mapping[str, Format]) -> KernelProof | None:
        """Inspect what the runtime makes of a file with these quantized sites; None where only a GPU could tell.

        Raises:
            ExportError: a quantized GEMM does not run on a kernel for its format.
            RuntimeUnavailableError: the runtime is not installed, or too old.
        """
        return None

    @abstractmethod
    def parity(self, network: Network, images: Tensor | None = None) -> Parity:
        """Run a network in torch and its file in the target's runtime, and compare every GEMM's output.

        Args:
            network: quantized or float; what the target changes of it (`network`) torch computes so, too.
            images: [B, C, H, W], normalised; 3 of seeded noise, smooth and sharp, where not given.

        Raises:
            RuntimeUnavailableError: the runtime is not installed, or too old.
            ExportError: the runtime refuses the file.
        """

    def promised_batches(self, options: ExportOptions) -> tuple[int, ...]:
        """Batch sizes that its files promise besides the usual ones."""
        return ()

    def takes_long(self, options: ExportOptions) -> bool:
        """Whether an export takes so long that what it replaces is worth keeping."""
        return False

    def build(self, directory: Path, files: Sequence[str], options: ExportOptions, about: BuildAbout) -> list[Path]:
        """Build what runs, where that is another file than `write` gives; one for each of `files`.

        Raises:
            RuntimeUnavailableError: that takes a package or a GPU that is not here.
        """
        return []

    # --- running

    @property
    def runs_suffix(self) -> str:
        """Of the file that runs."""
        return self.suffix

    @property
    def model(self) -> str:
        """Name of the quantized file that runs, in the directory of an export."""
        return f"model{self.runs_suffix}"

    @property
    def float_model(self) -> str:
        """Name of the float file beside it."""
        return f"model.float{self.runs_suffix}"

    @abstractmethod
    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        """Open a file of this target.

        Args:
            name: as the user named it.

        Raises:
            ArtifactError: damaged, edited, or of another kind.
            RuntimeUnavailableError: sound, and cannot run on this machine.
        """

    @abstractmethod
    def describe(self, name: str, path: Path) -> tuple[ArtifactInfo, BatchLimits | None]:
        """What a report says of a file that cannot run here, and the batches that it takes.

        Raises:
            ArtifactError: damaged or edited.
        """

    def describe_unbuilt(self, directory: Path) -> ArtifactInfo:
        """What a report says of an export whose running file could not be built."""
        raise ArtifactError("The file that runs is missing.", where=directory / self.model, hint="Export it again.")

    def baselines(self, opened: Runtime, again: Callable[[str], Runtime]) -> tuple[Runtime, ...]:
        """A float artifact in every precision that the runtime has for it, the most precise first.

        Args:
            again: opens it in another precision (`Opening.precision`).
        """
        return (opened,)

    def layers(self, path: Path) -> LayerTable:
        """Layers of a file with kernel, precision and share of latency.

        Raises:
            ArtifactError: damaged, or nothing is known of it here.
        """
        raise ArtifactError(f"Layers of {self.runtime} are not known here.", where=path)

    @abstractmethod
    def states(self) -> list[TargetState]:
        """Look at packages, providers and devices; nothing is built. One for each package that may build or run its
        files, the usual one first."""


@dataclass(frozen=True)
class BuildAbout:
    """What a built file says of itself.

    Attributes:
        label: name of its format.
        formats: of its quantized sites; none of a float checkpoint's.
    """

    manifest_sha256: str | None
    label: str
    formats: Mapping[str, Format]


def layer_table(layers: Sequence[dict[str, Any]], summary: str) -> LayerTable:
    """A table of layers with name, kernel, precision and share of latency."""
    rows: list[tuple[str, ...]] = [
        (
            layer["name"],
            layer["kernel"],
            layer["precision"],
            "–" if layer["time_share"] is None else f"{100 * layer['time_share']:.1f}",
        )
        for layer in layers
    ]
    counts = Counter(layer["precision"] for layer in layers)
    told = ", ".join(f"{count} in {precision}" for precision, count in counts.most_common())
    return LayerTable(
        ("layer", "kernel", "precision", "time %"),
        rows,
        f"{summary}\n{len(rows)} layers: {told}",
        {"layers": list(layers)},
    )


def explained(load: Callable[[], RunFile], name: str) -> RunFile:
    """Load, and turn what a runtime raises, then or later, into an ExportError.

    Args:
        name: of the runtime.
    """
    try:
        loaded = load()
    except Exception as error:  # exceptions of runtimes share no base of their own
        raise ExportError(f"{name} refuses the graph: {_last_line(error)}") from error

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            return loaded(images)
        except Exception as error:
            raise ExportError(f"{name} fails on a batch of {len(images)}: {_last_line(error)}") from error

    return run


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
