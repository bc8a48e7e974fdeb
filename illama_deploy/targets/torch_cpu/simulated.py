"""torch on the CPU: float checkpoints, and quantized ones in exact simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...checkpoint import Checkpoint
from ...model.network import Network
from ...preprocessing import Preprocessing
from ...quant import load_quantized
from ...quant.artifact import WEIGHTS
from ...runtime import SIMULATION, ArtifactInfo, Runtime

__all__ = ["TorchRuntime", "open_float", "open_quantized"]


class TorchRuntime(Runtime):
    """Runs a network eagerly in float32."""

    target = "torch"

    def __init__(self, model: Network, info: ArtifactInfo, preprocessing: Preprocessing, threads: int) -> None:
        self.model, self.info, self.preprocessing, self.threads = model, info, preprocessing, threads
        self.classes, self.task = model.config.classes, model.config.task

    @torch.inference_mode()
    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        logits: np.ndarray = self.model(torch.from_numpy(images_BCHW)).numpy()
        return logits


def open_float(name: str, checkpoint: Checkpoint, threads: int) -> TorchRuntime:
    """Run a float checkpoint."""
    info = ArtifactInfo(name, "float32", "torch", "CPU", checkpoint.size, checkpoint.sha256)
    runtime = TorchRuntime(checkpoint.build(), info, checkpoint.preprocessing, threads)
    runtime.class_names, runtime.data = checkpoint.classes, checkpoint.data
    return runtime


def open_quantized(name: str, directory: Path, threads: int) -> TorchRuntime:
    """Run a quantized checkpoint in torch, with the exact arithmetic that exports carry."""
    artifact = load_quantized(directory)
    manifest = artifact.manifest
    info = ArtifactInfo(
        name,
        manifest["format"],
        SIMULATION,
        "CPU",
        (directory / WEIGHTS).stat().st_size,
        manifest["weights"]["sha256"],
        artifact.manifest_sha256,
    )
    runtime = TorchRuntime(artifact.model, info, artifact.preprocessing, threads)
    runtime.class_names, runtime.data = tuple(manifest["classes"]), manifest["data"]["kind"]
    return runtime
