"""What a runtime is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RuntimeUnavailableError
from ..formats import is_simulated
from ..preprocessing import Preprocessing
from ..versions import is_older
from .onnx_file import OnnxFile

__all__ = ["SIMULATION", "ArtifactInfo", "BatchLimits", "Runtime", "Unavailable"]

#: The backend of quantized checkpoints in torch.
SIMULATION = "torch (simulated integers)"


@dataclass(frozen=True)
class ArtifactInfo:
    """What a report says of an artifact.

    Attributes:
        name: as the user named it.
        format: `float32`, `W8A8`, ...
        backend: what runs it, such as `onnxruntime`.
        provider: the execution provider or device that is really in use.
        size_bytes: of the file that holds the weights.
        sha256: of that file.
        manifest_sha256: of the quantized checkpoint it came from, if any.
    """

    name: str
    format: str
    backend: str
    provider: str
    size_bytes: int
    sha256: str
    manifest_sha256: str | None = None

    @classmethod
    def of_file(cls, name: str, file: OnnxFile, backend: str, provider: str) -> ArtifactInfo:
        """Describe an exported file."""
        return cls(name, file.format, backend, provider, file.size_bytes, file.sha256, file.manifest_sha256)

    @property
    def simulated(self) -> str | None:
        """Why its speed says nothing, where it stands for an accuracy alone."""
        if is_simulated(self.format):
            return "it is simulated: what it was written for has no kernel for its format"
        if self.backend == SIMULATION:
            return "PyTorch simulates its integers; the files that 'export' writes run on kernels"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class BatchLimits:
    """Batch sizes that an artifact takes.

    Attributes:
        require: raises a UsageError for a batch size outside.
    """

    smallest: int
    largest: int
    require: Callable[[int], None]


@dataclass(frozen=True)
class Unavailable:
    """A sound artifact that cannot run on this machine.

    Attributes:
        info: what it is; its provider is "none".
        reason: why it cannot run, half a sentence.
        batches: as of a `Runtime`.
        target: name of the target that it was made for.
    """

    info: ArtifactInfo
    reason: str
    batches: BatchLimits | None
    target: str


class Runtime(ABC):
    """An artifact, loaded and ready.

    Attributes:
        info: what it is.
        preprocessing: what it expects of images.
        classes: number of classes; of features, their number.
        task: what the network is for, a name of `task_names`.
        class_names: in label order, or empty where unknown.
        data: data spec that it belongs to, or None.
        threads: threads that it uses.
        batches: batch sizes that it takes; any where None.
        target: name of the target that it runs in; empty for one of somebody's own.
        opened: what `open_artifact` opened it with, as JSON holds it; None for one of somebody's own.
    """

    target: str = ""
    info: ArtifactInfo
    preprocessing: Preprocessing
    classes: int
    task: str = "classification"
    class_names: tuple[str, ...] = ()
    data: str | None = None
    threads: int
    batches: BatchLimits | None = None
    opened: dict[str, Any] | None = None

    @staticmethod
    def require(runtimes: Mapping[str, str], package: str, installed: str, where: Path) -> None:
        """Hold an installed runtime to the lowest that a file says it loads in.

        Args:
            runtimes: package to the lowest version, as the file says.
            where: the file.

        Raises:
            RuntimeUnavailableError: it is older.
        """
        lowest = runtimes.get(package)
        if lowest is not None and is_older(installed, lowest):
            raise RuntimeUnavailableError(
                f"It needs {package} {lowest} or newer, and {installed} is installed.",
                where=where,
                hint=f"pip install '{package}>={lowest}'",
            )

    def describe(self, file: OnnxFile, threads: int) -> None:
        """Take over what an exported file says of itself."""
        self.preprocessing, self.classes, self.class_names = file.preprocessing, file.classes, file.class_names
        self.task, self.data, self.threads = file.task, file.data, threads

    @abstractmethod
    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        """Preprocessed float32 images to float32 logits [B, classes], or of pixels [B, classes, H, W]."""
