"""torch on CPUs: checkpoints as they are. Float ones run eagerly; quantized ones in exact simulation, or, where `torch`
is asked for by name, on torchao's kernels. Nothing is exported for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from ...errors import UsageError
from ...export.batches import RunFile
from ...formats import FORMATS
from ...model.network import Network
from ...runtime import ArtifactInfo, BatchLimits, Runtime
from ...versions import installed_too_old
from ..parity import Parity
from ..target import Missing, Opening, Target, TargetState
from .simulated import open_float, open_quantized
from .torchao import TORCHAO_FORMATS, open_torchao

__all__ = ["TARGET", "TorchCpu", "open_float"]


class TorchCpu(Target):
    """Quantized checkpoints in torch on this machine's CPU."""

    def write(self, network: Network, path: Path, about: Mapping[str, str]) -> list[Path]:
        self._nothing_to_export()

    def load(self, path: Path, *, fp8: bool = False) -> RunFile:
        self._nothing_to_export()

    def parity(self, network: Network, images: Tensor | None = None) -> Parity:
        self._nothing_to_export()

    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        return (open_torchao if opening.chosen else open_quantized)(name, path, opening.threads)

    def describe(self, name: str, path: Path) -> tuple[ArtifactInfo, BatchLimits | None]:
        self._nothing_to_export()

    def states(self) -> list[TargetState]:
        why = installed_too_old("torch") or installed_too_old("torchao")
        return [TargetState("torch (simulation, or torchao's kernels with --target torch)", why, why)]

    def _nothing_to_export(self) -> NoReturn:
        raise UsageError("torch runs checkpoints as they are.", hint="Name another target.")


TARGET = TorchCpu(
    name="torch",
    runtime="torchao in PyTorch",
    folder="torch",
    suffix="",
    kind="checkpoint",
    kernels=dict.fromkeys(TORCHAO_FORMATS, "torchao's kernels, compiled"),
    missing={name: Missing("torchao has no match for it", "W8A8") for name in FORMATS if name not in TORCHAO_FORMATS},
)
