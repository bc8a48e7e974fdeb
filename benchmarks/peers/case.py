"""What a row of the table is. Standard library and numpy only: tools run in environments of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

IMAGES = 512
SEED = 0
#: Batch sizes that are timed.
BATCHES = (1, 8)


@dataclass(frozen=True)
class Inputs:
    """What every tool is given; the folder is filled by `peers.inputs`."""

    shared: Path
    work: Path

    @property
    def checkpoint(self) -> Path:
        return self.shared / "checkpoints" / "illama-tiny-cifar10.pth"

    @property
    def data(self) -> str:
        return f"parquet:{self.shared / 'data' / 'cifar10'}"

    @property
    def folder(self) -> Path:
        return self.work / "inputs"

    @property
    def onnx(self) -> Path:
        """The float network as `torch.onnx.export(dynamo=True)` writes it, opset 21, dynamic batch."""
        return self.folder / "float.onnx"

    @property
    def calibration(self) -> Path:
        """float32 [512, 3, 32, 32], the images that `illama_deploy.quantize` draws."""
        return self.folder / "calibration.npy"


@dataclass(frozen=True)
class Case:
    """One quantization by one tool.

    Attributes:
        name: unique; its folder's name.
        packages: whose versions the row shows; the first is the tool.
        method: settings, for the reader.
        format: as in `illama_deploy.formats`, or `float32`, `bf16`, `W8A16`.
        runtime: a key of `peers.runtimes.RUNTIMES`.
        make: writes the artifact into a folder and returns its file.
        python: which `--python NAME=PATH` runs `make`, where the tool's requirements contradict ours.
        family: of these only the one with the best top-1 gets a row, and the row names the others.
    """

    name: str
    tool: str
    packages: tuple[str, ...]
    method: str
    format: str
    runtime: str
    make: Callable[[Inputs, Path], Path]
    python: str = ""
    family: str = ""
    ours: bool = False

    @property
    def is_float(self) -> bool:
        return self.format in ("float32", "bf16")
