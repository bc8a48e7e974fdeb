"""Build an engine from a TensorRT-ready ONNX file, and write down beside it what it is.

Two packages share one interface: `tensorrt` (builds and runs on the GPU that is here) and `tensorrt_rtx` (builds
ahead of time for named compute capabilities, with no GPU at all). Networks are strongly typed in both, so the
ONNX file alone decides on precision.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ExportError, RuntimeUnavailableError, UsageError
from ..hashing import canonical_json, sha256_file
from .float_graph import INPUT

__all__ = ["FLAVORS", "RTX_CAPABILITIES", "SIDECAR_SCHEMA", "Profile", "build_engine", "choose_flavor"]

FLAVORS = ("auto", "tensorrt", "rtx")
#: Compute capabilities that TensorRT for RTX builds for where none is named: Ampere, Ada, Blackwell.
RTX_CAPABILITIES = ("8.6", "8.9", "12.0")
SIDECAR_SCHEMA = "illama-deploy/engine/1"
WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class Profile:
    """Batch sizes that an engine accepts, and the one it is tuned for."""

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                f"The batch profile {self.minimum}, {self.optimum}, {self.maximum} does not ascend from 1.",
                hint="Use --min-batch 1 --opt-batch 8 --max-batch 32, say.",
            )


def choose_flavor(flavor: str) -> str:
    """Resolve `auto`: tensorrt where it and a GPU are here, else TensorRT for RTX.

    Raises:
        RuntimeUnavailableError: the package is not installed, or the GPU that it needs is not here.
    """
    if flavor not in FLAVORS:
        raise UsageError(f"There is no flavor {flavor!r}.", hint=f"Use one of: {', '.join(FLAVORS)}.")
    import torch

    have = {name: importlib.util.find_spec(module) is not None for name, module in _MODULES.items()}
    gpu = torch.cuda.is_available()
    if flavor == "auto":
        flavor = "tensorrt" if have["tensorrt"] and gpu else "rtx"
        if not have[flavor]:
            raise RuntimeUnavailableError(
                "Neither tensorrt with a GPU nor tensorrt-rtx is here, so no engine can be built.",
                hint="pip install 'illama-deploy[rtx]' builds without a GPU; 'illama-deploy[trt]' needs one. "
                "--onnx-only writes the TensorRT-ready ONNX alone.",
            )
    if not have[flavor]:
        extra = {"tensorrt": "trt", "rtx": "rtx"}[flavor]
        raise RuntimeUnavailableError(
            f"The package for --flavor {flavor} is not installed.", hint=f"pip install 'illama-deploy[{extra}]'"
        )
    if flavor == "tensorrt" and not gpu:
        raise RuntimeUnavailableError(
            "tensorrt builds on the GPU that it will run on, and no CUDA device is here.",
            hint="Build there, or use --flavor rtx, or --onnx-only.",
        )
    return flavor


_MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    flavor: str,
    profile: Profile,
    capabilities: tuple[str, ...] = (),
    about: dict[str, Any],
    rebuild: str,
) -> Path:
    """Parse, compile, and write `engine` with its sidecar `engine`.json.

    Args:
        flavor: `tensorrt` or `rtx`, as `choose_flavor` gives it.
        capabilities: compute capabilities such as "8.9", for `rtx`.
        about: entries for the sidecar, such as the manifest's hash and the precision.
        rebuild: the command that makes the same engine again.

    Returns:
        The sidecar's path.

    Raises:
        ExportError: the parser or the builder refuses; its own words are given.
        UsageError: a compute capability that this version cannot build for.
    """
    trt = importlib.import_module(_MODULES[flavor])
    complaints: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors for our own message, and everything else quiet."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                complaints.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise ExportError(
            f"The parser of {_MODULES[flavor]} {trt.__version__} refuses the file: " + "; ".join(errors or complaints),
            where=onnx.name,
            hint="Another version may accept it; --onnx-only writes the ONNX file alone.",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    optimization = builder.create_optimization_profile()
    image = tuple(network.get_input(0).shape)[1:]
    optimization.set_shape(INPUT, *((size, *image) for size in (profile.minimum, profile.optimum, profile.maximum)))
    config.add_optimization_profile(optimization)
    if flavor == "rtx":
        _set_capabilities(trt, config, capabilities)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError(
            f"{_MODULES[flavor]} {trt.__version__} cannot build the engine: " + "; ".join(complaints[-3:]),
            where=onnx.name,
            hint="See the message; less --max-batch needs less memory.",
        )
    engine.write_bytes(memoryview(serialized))
    sidecar = engine.with_name(engine.name + ".json")
    record = {
        "schema": SIDECAR_SCHEMA,
        "engine": {"file": engine.name, "sha256": sha256_file(engine), "bytes": engine.stat().st_size},
        "onnx": {"file": onnx.name, "sha256": sha256_file(onnx)},
        "flavor": flavor,
        "version": trt.__version__,
        "compute_capabilities": list(capabilities) if flavor == "rtx" else [_device_capability()],
        "profile": {"input": INPUT, "min": profile.minimum, "opt": profile.optimum, "max": profile.maximum},
        **about,
        "rebuild": rebuild,
    }
    sidecar.write_text(canonical_json(record), encoding="utf-8")
    return sidecar


def _network_flags(trt: Any) -> int:
    """Strong typing is a flag in TensorRT 10 and the only way in 11 and in RTX."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_capabilities(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in vars(trt.ComputeCapability).items()
        if name.startswith("SM")
    }
    for position, capability in enumerate(capabilities):
        if capability not in known:
            raise UsageError(
                f"TensorRT for RTX {trt.__version__} cannot build for compute capability {capability}.",
                hint=f"It knows {', '.join(sorted(known, key=float))} (--compute-capability).",
            )
        config.set_compute_capability(known[capability], position)


def _device_capability() -> str:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"
