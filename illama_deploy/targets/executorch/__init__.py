"""ExecuTorch with XNNPACK, for phones and small computers: a program (`.pte`) that takes one image at a time.

The whole network is one call of XNNPACK's delegate. Its integer GEMMs quantize each row of their input themselves, from
its least and largest value, and take 8-bit or 4-bit weights by channel. Static formats keep their own integers all the
same (`lowering.py`); those with a step size for each token get a zero point besides (`network.py`). It multiplies no
quantized weights by activations in floating point, and no two activations as integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ...export.batches import RunFile, proof_images
from ...export.proof import KernelProof
from ...export.record import recorded_proof
from ...formats import Format
from ...model.network import Network
from ...rewrites import with_needed_rewrites
from ...runtime import ArtifactInfo, BatchLimits, Runtime
from ...versions import installed_too_old
from ..parity import IMAGES, PARITY_DB, LayerParity, Parity, agreement, torch_outputs
from ..target import LayerTable, Missing, Opening, Target, TargetState, explained, layer_table
from .lowering import gemm_names, lower
from .network import per_token
from .program import describe, read_program, write_sidecar
from .proof import prove_program
from .runtime import INSTALL, ExecuTorchRuntime, load_method, need_executorch

__all__ = ["TARGET", "ExecuTorch"]


class ExecuTorch(Target):
    """ExecuTorch's XNNPACK delegate on this machine's CPU."""

    def network(self, network: Network) -> Network:
        return per_token(with_needed_rewrites(network), self.changed)

    def write(self, network: Network, path: Path, about: Mapping[str, str]) -> list[Path]:
        need_executorch()
        network = self.network(network)
        program, _ = lower(network)
        path.write_bytes(program)
        config = network.config
        image = (config.channels, *config.image_size)
        return [path, write_sidecar(path, about, image, config.classes, gemm_names(network))]

    def load(self, path: Path, *, fp8: bool = False) -> RunFile:
        need_executorch()

        def load() -> RunFile:
            method = load_method(path)
            return lambda images: [method(images)[0][:, 0]]

        return explained(load, self.runtime)

    def prove(self, path: Path, sites: Mapping[str, Format]) -> KernelProof | None:
        need_executorch()
        return prove_program(path, read_program(path).gemms, sites)

    def parity(self, network: Network, images: Tensor | None = None) -> Parity:
        need_executorch()
        network = self.network(network)
        images = torch.from_numpy(proof_images(network.config, IMAGES)) if images is None else images
        program, names = lower(network, watch=True)
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"watched{self.suffix}"
            path.write_bytes(program)
            outputs = explained(lambda: load_method(path), self.runtime)(images.numpy())
        wanted = torch_outputs(network, set(names), images)
        layers: list[LayerParity] = []
        for name, found in zip((*names[1:], names[0]), (*outputs[1:], outputs[0]), strict=True):  # logits come last
            layers.append(LayerParity(name or "logits", agreement(_rows(wanted[name]), torch.from_numpy(found))))
            if not layers[-1].sqnr_db >= PARITY_DB:
                return Parity(self.runtime, tuple(layers), layers[-1].name)
        return Parity(self.runtime, tuple(layers), None)

    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        return ExecuTorchRuntime(name, path, opening.threads)

    def describe(self, name: str, path: Path) -> tuple[ArtifactInfo, BatchLimits | None]:
        return describe(name, read_program(path), "none"), None

    def layers(self, path: Path) -> LayerTable:
        """The operators of the delegate; XNNPACK's profiler is not built into ExecuTorch's package, so no times."""
        program = read_program(path)
        proof = recorded_proof(path, program.program.sha256)
        if proof is None:
            need_executorch(path)
            proof = prove_program(path, program.gemms, {}).to_dict()
        return layer_table([{**layer, "time_share": None} for layer in proof["layers"]], str(proof["summary"]))

    def states(self) -> list[TargetState]:
        why = installed_too_old("executorch", INSTALL)
        return [TargetState(self.name, why, why)]


def _rows(output: Tensor) -> Tensor:
    """A module's output as rows of channels [B, S, C]."""
    if output.ndim == 4:
        return output.flatten(2).transpose(1, 2)
    return output[:, None] if output.ndim == 2 else output


_NO_GEMM = "it multiplies quantized weights by 8-bit activations only"

TARGET = ExecuTorch(
    name="executorch",
    runtime="ExecuTorch (XNNPACK)",
    folder="executorch",
    suffix=".pte",
    kind="ExecuTorch program, unproven,",
    lowest={"executorch": "1.5.1"},
    kernels={
        "W8A8": "S8×S8 integer GEMMs",
        "W4A8": "4-bit weights in S8×S4 integer GEMMs",
        "W8A8-dynamic": "S8×S8 integer GEMMs",
    },
    changed={"W8A8-dynamic": "INT8 with a step size and a zero point for each token"},
    missing={
        "W4A16": Missing(_NO_GEMM, "W4A8", can_simulate=False),
        "W4A4": Missing("no CPU multiplies 4-bit activations", "W4A8"),
        "W3A3": Missing("no CPU multiplies 3-bit activations", "W4A8"),
        "W2A16": Missing(_NO_GEMM, "W4A8", can_simulate=False),
        "FP8": Missing("no CPU multiplies FP8", "W8A8", can_simulate=False),
    },
)
