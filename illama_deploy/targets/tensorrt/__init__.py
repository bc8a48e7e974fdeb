"""TensorRT 10 and 11, and TensorRT for RTX: strongly typed, so precision is what the ONNX file says.

Activations S8 with zero point 0, weights S8 per channel, biases in float (a DequantizeLinear of int32 is
refused), everything else float16 with the norms in float32. Q/DQ stand on GEMM inputs only.

It multiplies no 4-bit integers by 8-bit ones: of W4A8 it takes the weights alone, with float16 activations. INT4 is
read by blocks of 128 or 64 inputs (NVIDIA's page on quantization schemes), so a channel's step size is repeated for
each of its blocks; a weight that neither cuts into several blocks is stored as INT8. As one block, or per channel,
INT4 does build (TensorRT for RTX 1.7.1), but unpacked: the engine holds float16 weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ...environment import cuda_problem
from ...errors import ArtifactError
from ...export.passes import ActivationSpelling, HalfPrecision, HoistQuantize, InsertQDQ, RemoveDead
from ...model.network import Network
from ...options.steps import ExportOptions
from ...runtime import ArtifactInfo, BatchLimits, Runtime
from ...runtime.onnx_file import read_onnx
from ...versions import installed_too_old
from ..onnx_cpu.runtime import OnnxRuntime
from ..onnx_target import OnnxTarget
from ..target import BuildAbout, LayerTable, Missing, Opening, TargetState
from .engine import RTX_CAPABILITIES, BuildOptions, Profile, build_engine, choose_flavor
from .package import LOWEST
from .runtime import TensorRTEngine, describe_engine
from .sidecar import read_sidecar

__all__ = ["TARGET", "TensorRT"]


def _passes(network: Network) -> Sequence[ir.passes.PassBase]:
    spelling = ActivationSpelling(unsigned=False, integer_bias=False, blocks=(128, 64))
    return InsertQDQ(network, spelling), HoistQuantize(), RemoveDead(), HalfPrecision()


class TensorRT(OnnxTarget):
    """Engines, each with the ONNX file that it is built from; that one runs in ONNX Runtime on the CPU."""

    @property
    def runs_suffix(self) -> str:
        return ".engine"

    def promised_batches(self, options: ExportOptions) -> tuple[int, ...]:
        profile = _profile(options)
        return () if options.onnx_only else (profile.minimum, profile.maximum)

    def takes_long(self, options: ExportOptions) -> bool:
        return not options.onnx_only

    def build(self, directory: Path, files: Sequence[str], options: ExportOptions, about: BuildAbout) -> list[Path]:
        if options.onnx_only:
            return []
        flavor, profile = choose_flavor(options.flavor), _profile(options)
        build = BuildOptions(options.builder_optimization_level, options.timing_cache)
        # FP8 came with Ada.
        has_fp8 = any(format_.base == "FP8" for format_ in about.formats.values())
        known = [c for c in RTX_CAPABILITIES if not has_fp8 or c != "8.6"]
        capabilities = tuple(options.compute_capabilities) or (tuple(known) if flavor == "rtx" else ())
        rebuild = (
            f"illama-deploy export {'QUANTIZED' if about.formats else 'CHECKPOINT'} --trt --flavor {flavor}"
            f" --min-batch {profile.minimum} --opt-batch {profile.optimum} --max-batch {profile.maximum}"
            + "".join(f" --compute-capability {c}" for c in capabilities)
        )
        engines = []
        for name in files:
            engine = directory / f"{name.removesuffix(self.suffix)}{self.runs_suffix}"
            is_quantized = name == f"model{self.suffix}"
            build_engine(
                directory / name,
                engine,
                flavor=flavor,
                profile=profile,
                capabilities=capabilities,
                about={
                    "manifest_sha256": about.manifest_sha256,
                    "precision": {"gemms": about.label if is_quantized else "float16"}
                    | {"norms": "float32", "rest": "float16"},
                },
                rebuild=rebuild,
                options=build,
            )
            engines.append(engine)
        return engines

    def open(self, name: str, path: Path, opening: Opening) -> Runtime:
        if path.suffix == self.suffix:
            return OnnxRuntime(name, opening.onnx or read_onnx(path), opening.threads)
        return TensorRTEngine(name, path, opening.threads, cuda_graph=opening.cuda_graph)

    def describe(self, name: str, path: Path) -> tuple[ArtifactInfo, BatchLimits | None]:
        return super().describe(name, path) if path.suffix == self.suffix else describe_engine(name, path)

    def describe_unbuilt(self, directory: Path) -> ArtifactInfo:
        info, _ = super().describe(str(directory), directory / f"model{self.suffix}")
        return replace(info, backend=self.name)

    def layers(self, path: Path) -> LayerTable:
        if path.suffix == self.suffix:
            raise ArtifactError(
                f"Nothing was proven when it was written for {self.name}.", where=path, hint="Give the .engine."
            )
        sidecar, columns = read_sidecar(path), ("layer", "type", "precision")
        rows: list[tuple[str, ...]] = [*sidecar.layers]
        figures = [dict(zip(("name", *columns[1:]), row, strict=True)) for row in rows]
        return LayerTable(columns, rows, f"{len(rows)} layers, from the {sidecar.layers_from}", {"layers": figures})

    def states(self) -> list[TargetState]:
        """`tensorrt` builds on a GPU alone, TensorRT for RTX anywhere."""
        no_gpu = cuda_problem()
        why = installed_too_old("tensorrt", "pip install 'illama-deploy[trt]'") or no_gpu
        missing = installed_too_old("tensorrt-rtx", "pip install 'illama-deploy[rtx]'")
        return [TargetState(self.name, why, why), TargetState("tensorrt-rtx", missing, missing or no_gpu)]


def _profile(options: ExportOptions) -> Profile:
    return Profile(options.min_batch, options.opt_batch, options.max_batch)


TARGET = TensorRT(
    name="tensorrt",
    runtime="TensorRT",
    folder="trt",
    kind="TensorRT-ready ONNX",
    passes=_passes,
    float_format="float16",
    lowest={**LOWEST, "onnxruntime": "1.24.1"},
    kernels={
        "W8A8": "S8×S8 GEMMs",
        "W4A16": "4-bit weights by blocks, unpacked inside the GEMM",
        "W4A8": "S8×S8",  # what is no GEMM of weights: products of attention, convolutions
        "FP8": "FP8 GEMMs (from Ada on)",
    },
    changed={"W4A8": "INT4 weight-only with float16 activations"},
    missing={
        "W8A8-dynamic": Missing("it refuses DynamicQuantizeLinear and MatMulInteger", "W8A8", can_simulate=False),
        "W4A4": Missing("4-bit activations exist as NVFP4 only", "W8A8 or W4A16", can_simulate=False),
        "W3A3": Missing("no GPU multiplies 3-bit activations", "W8A8 or W4A16", can_simulate=False),
        "W2A16": Missing("it reads no weights of 2 bits", "W4A16", can_simulate=False),
    },
)
