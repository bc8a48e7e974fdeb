"""ONNX Runtime on the CPU; the provider is asserted, never fallen back to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import ArtifactError, RuntimeUnavailableError, UsageError
from ..hashing import sha256_file
from ..onnx_metadata import PREFIX
from ..preprocessing import Preprocessing, default_preprocessing
from .runtime import ArtifactInfo, Runtime

__all__ = ["OnnxRuntimeCpu"]

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeCpu(Runtime):
    """A session on one `.onnx` file that takes images and gives logits."""

    def __init__(self, name: str, path: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between runs would steal time from the other artefact of an interleaved pair.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = ort.InferenceSession(str(path), options, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no base of their own
            raise ArtifactError(
                f"ONNX Runtime {ort.__version__} cannot load it: {str(error).splitlines()[0]}",
                where=path,
                hint="It may be cut short or need a newer runtime; export it again.",
            ) from error
        if (used := self.session.get_providers()) != [PROVIDER]:
            raise RuntimeUnavailableError(f"ONNX Runtime chose {used}, not {PROVIDER}.", where=path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4 or len(outputs[0].shape) != 2:
            raise ArtifactError(
                "It does not take one batch of images [batch, C, H, W] to one batch of logits [batch, classes].",
                where=path,
                hint="Give a file that 'illama-deploy export' wrote.",
            )
        if (
            not all(isinstance(side, int) for side in (*shape[1:], outputs[0].shape[1]))
            or isinstance(shape[0], int)
            or inputs[0].type != "tensor(float)"
        ):
            raise ArtifactError(
                f"It takes {inputs[0].type} {shape}; float images of a fixed size in batches of any size are needed.",
                where=path,
                hint="Give a file that 'illama-deploy export' wrote.",
            )
        metadata = self.session.get_modelmeta().custom_metadata_map
        about = {key.removeprefix(PREFIX): v for key, v in metadata.items() if key.startswith(PREFIX)}
        self.input = inputs[0].name
        self.threads = threads
        self.classes = outputs[0].shape[1]
        self.data = about.get("data")
        try:
            self.class_names = tuple(json.loads(about.get("classes", "[]")))
            self.preprocessing = (
                Preprocessing.from_dict(json.loads(about["preprocessing"]))
                if "preprocessing" in about
                else default_preprocessing((shape[2], shape[3]), shape[1])
            )
            if (self.preprocessing.channels, *self.preprocessing.size) != tuple(shape[1:]):
                raise ValueError("its preprocessing does not fit its input")
        except (UsageError, TypeError, ValueError) as error:
            problem = error.what if isinstance(error, UsageError) else str(error)
            raise ArtifactError(
                f"Its metadata cannot be used: {problem.rstrip('.')}.", where=path, hint="Export it again."
            ) from error
        self.info = ArtifactInfo(
            name,
            about.get("format", "unknown"),
            "onnxruntime",
            PROVIDER,
            path.stat().st_size,
            sha256_file(path),
            about.get("manifest_sha256"),
        )

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self.session.run(None, {self.input: images_BCHW})[0]
        return logits
