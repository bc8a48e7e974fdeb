"""OpenVINO on CPUs: S8 Q/DQ on the inputs of linear layers and of the patch embedding only, everything else in the
precision that the runtime is told (bfloat16 where the CPU has it), tokens as [B, S, E] (see `export.batch_major`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...export.batches import RunFile
from ...export.layout import BATCH_MAJOR
from ...export.passes import ActivationSpelling, InsertQDQ, RemoveDead
from ...export.proof import KernelProof
from ...formats import Format
from ...model.network import Network
from ...runtime import Runtime
from ...runtime.onnx_file import read_onnx
from ...versions import installed_too_old, need
from ..onnx_target import OnnxTarget
from ..target import Missing, Opening, TargetState, explained
from .layer_times import layer_times
from .proof import BOOKKEEPING, prove_openvino
from .runtime import OpenVinoCpu
from .session import compile_options

__all__ = ["TARGET", "OpenVino"]

INSTALL = "pip install 'illama-deploy[openvino]'"


def _passes(network: Network) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False, unsigned_maps=True)
    return InsertQDQ(network, spelling), RemoveDead()


class OpenVino(OnnxTarget):
    """OpenVINO on this machine's CPU."""

    @property
    def tried_in(self) -> str:
        return "OpenVINO"

    def load(self, path: Path, *, fp8: bool = False) -> RunFile:
        need("openvino", install=INSTALL)
        import openvino as ov

        def load() -> RunFile:
            options = {"INFERENCE_PRECISION_HINT": "f32", **compile_options()}
            compiled = ov.Core().compile_model(str(path), "CPU", options)

            def run(images: np.ndarray) -> list[np.ndarray]:
                results = compiled({0: images})
                return [np.array(results[output]) for output in compiled.outputs]

            return run

        return explained(load, self.tried_in)

    def prove(self, path: Path, sites: Mapping[str, Format]) -> KernelProof | None:
        return prove_openvino(path, sites)

    def seconds(self, path: Path, layers: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """The proof lists the computing layers in the order in which they run, and so does the profile."""
        times = [(kind, seconds) for kind, seconds in layer_times(path) if kind not in BOOKKEEPING]
        if [kind for kind, _ in times] != [layer["kernel"].split(" ")[0] for layer in layers]:
            return [None] * len(layers)  # written on another machine, or by another version
        return [seconds for _, seconds in times]

    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        return OpenVinoCpu(name, opening.onnx or read_onnx(path), opening.threads, precision=opening.precision)

    def baselines(self, opened: Runtime, again: Callable[[str], Runtime]) -> tuple[Runtime, ...]:
        """Where the CPU has bfloat16, float32 does not run so unless one asks for it: both take part."""
        info = opened.info
        if not (info.provider.endswith("bf16") and info.format == "float32"):
            return (opened,)
        opened.info = replace(info, name=f"{info.name} (bf16)", format="bfloat16")
        return again("f32"), opened

    def states(self) -> list[TargetState]:
        missing = installed_too_old("openvino", INSTALL)
        return [TargetState(self.name, None, missing)]


TARGET = OpenVino(
    name="openvino",
    runtime="OpenVINO on CPUs",
    folder="openvino",
    layout=BATCH_MAJOR,
    passes=_passes,
    lowest={"openvino": "2025.0", "onnxruntime": "1.24.1"},
    kernels={
        "W8A8": "S8×S8 integer GEMMs",
        "W4A8": "4-bit file, S8×S8 integer GEMMs",
        "W4A16": "4-bit weights, unpacked inside the GEMM",
    },
    missing={
        "W8A8-dynamic": Missing("it takes no step size for each token from a file", "W8A8", can_simulate=False),
        "W4A4": Missing("no CPU multiplies 4-bit activations", "W4A8"),
        "W3A3": Missing("no CPU multiplies 3-bit activations", "W4A8"),
        "W2A16": Missing("weights of 2 bits are stored in 4", "W4A16"),
        "FP8": Missing("no CPU multiplies FP8", "W8A8", can_simulate=False),
    },
)
