"""Build an engine from a TensorRT-ready ONNX file, and write down beside it what it is.

Two packages share one interface: `tensorrt` (builds and runs on the GPU that is here) and `tensorrt_rtx` (builds
ahead of time for named compute capabilities, with no GPU at all). Networks are strongly typed in both, so the
ONNX file alone decides on precision.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...atomic import new_file
from ...environment import cuda_problem
from ...errors import ArtifactError, ExportError, RuntimeUnavailableError, UsageError, parameter
from ...export.float_graph import INPUT
from ...hashing import canonical_json, sha256_file
from ...onnx_metadata import PREFIX
from ...progress import Phases, phases
from .layer_info import inspected_layers, network_layers
from .package import MODULES, ErrorLog, error_log, is_installed, load_package
from .sidecar import write_sidecar

__all__ = [
    "BUILD_THREAD",
    "FLAVORS",
    "RTX_CAPABILITIES",
    "BuildOptions",
    "Profile",
    "build_engine",
    "choose_flavor",
    "layers_path",
    "load_timing_cache",
    "make_monitor",
    "save_timing_cache",
]

FLAVORS = ("auto", "tensorrt", "rtx")
#: Compute capabilities that TensorRT for RTX builds for where none is named: Ampere, Ada, Blackwell.
RTX_CAPABILITIES = ("8.6", "8.9", "12.0")
WORKSPACE_BYTES = 4 << 30
#: Name of the thread that a build runs in.
BUILD_THREAD = "build-engine"
#: How builders, CUDA and C++ say that memory ran out; the last is what a thread without memory for its stack gets.
OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "memoryallocation",
    "memoryerror",
    "bad_alloc",
    "resource temporarily unavailable",
)


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
                hint=f"Use {parameter(min_batch=1, opt_batch=8, max_batch=32)}, say.",
            )


@dataclass(frozen=True)
class BuildOptions:
    """How long a build may search, and what it remembers.

    Attributes:
        optimization_level: 0 (fastest build) to 5 (fastest engine); the package's own default, 3, where None.
        timing_cache: for `tensorrt`: file of kernel timings to read and extend; one in the user's cache folder for
            each version and compute capability where None.
    """

    optimization_level: int | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(
                f"There is no builder optimization level {self.optimization_level}.",
                hint=f"Use {parameter(builder_optimization_level=0)} (fastest build) to 5 (fastest engine).",
            )

    @property
    def flags(self) -> str:
        """What makes the same choice on the command line."""
        level = self.optimization_level
        return "" if level is None else f" --builder-optimization-level {level}"


def choose_flavor(flavor: str) -> str:
    """Resolve `auto`: tensorrt where it and a GPU are here, else TensorRT for RTX.

    Raises:
        RuntimeUnavailableError: the package is not here or of another version, or the GPU that it needs is not here.
    """
    if flavor not in FLAVORS:
        raise UsageError(f"There is no flavor {flavor!r}.", hint=f"Use one of: {', '.join(FLAVORS)}.")
    problem = cuda_problem()
    if flavor == "auto":
        flavor = "tensorrt" if is_installed("tensorrt") and problem is None else "rtx"
        if not is_installed(flavor):
            raise RuntimeUnavailableError(
                "Neither tensorrt with a GPU nor tensorrt-rtx is here, so no engine can be built.",
                hint="pip install 'illama-deploy[rtx]' builds without a GPU; 'illama-deploy[trt]' needs one. "
                f"{parameter(onnx_only=True)} writes the TensorRT-ready ONNX alone.",
            )
    load_package(flavor)
    if flavor == "tensorrt" and problem is not None:
        raise RuntimeUnavailableError(
            f"tensorrt builds on the GPU that it will run on: {problem}.",
            hint=f"Build there, or use {parameter(flavor='rtx')}, or {parameter(onnx_only=True)}.",
        )
    return flavor


def layers_path(engine: Path) -> Path:
    """`model.engine` → `model.engine.layers.json`, which is there if the engine could be inspected."""
    return engine.with_name(engine.name + ".layers.json")


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    flavor: str,
    profile: Profile,
    capabilities: tuple[str, ...] = (),
    about: dict[str, Any],
    rebuild: str,
    options: BuildOptions | None = None,
) -> Path:
    """Parse, compile, and write `engine` with its sidecar `engine`.json.

    Where the engine can be loaded (a GPU that it was built for), the engine inspector's account of it is written to
    `engine`.layers.json, and the sidecar's layers come from there; elsewhere they come from the parsed network.
    Ctrl-C stops the build at its next step.

    Args:
        flavor: `tensorrt` or `rtx`, as `choose_flavor` gives it.
        capabilities: compute capabilities such as "8.9", for `rtx`.
        about: entries for the sidecar, such as the manifest's hash and the precision.
        rebuild: the command that makes the same engine again; flags of `options` are added.

    Returns:
        The sidecar's path.

    Raises:
        ExportError: the parser or the builder refuses, or memory runs out; its own words are given.
        UsageError: a compute capability that this version cannot build for.
        RuntimeUnavailableError: the package is missing, or too old or too new.
    """
    options = options or BuildOptions()
    trt = load_package(flavor)
    log, complaints = error_log(trt)
    name = f"{MODULES[flavor]} {trt.__version__}"
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # what a constructor that gave up looks like from Python
        raise ExportError(
            f"{name} cannot start a build: " + ("; ".join(complaints) or str(error)), where=onnx.name
        ) from error
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)  # outlives the network, whose weights it holds
    _parse(parser, onnx, name, complaints)
    image = tuple(network.get_input(0).shape)[1:]
    config, capabilities = _configure(trt, builder, flavor, profile, image, capabilities, options)
    with phases(f"Building {engine.name} ({flavor})") as shown:
        monitor = make_monitor(trt, shown)
        config.progress_monitor = monitor
        # TensorRT for RTX 1.7.1 was seen to crash when cancelled on a busy machine; it takes seconds, so it may finish.
        monitor.stoppable = flavor == "tensorrt"
        serialized = _compile(lambda: builder.build_serialized_network(network, config), monitor, complaints)
    if serialized is None:
        raise _build_error(name, onnx, profile, complaints)
    if flavor == "tensorrt":
        with suppress(*(() if options.timing_cache else (ArtifactError,))):  # nobody asked for the default one
            save_timing_cache(config, _timing_cache_path(options, trt.__version__, capabilities[0]))
    engine.write_bytes(memoryview(serialized))
    layers, source = network_layers(network), "network definition"
    if cuda_problem() is None and _device_capability() in capabilities:
        information = _inspect(trt, log, engine, (profile.optimum, *image))
        if information is not None:
            layers_path(engine).write_text(information, encoding="utf-8")
            layers, source = inspected_layers(information), "engine inspector"
    counts = Counter(f"{layer['type']} {layer['precision']}" for layer in layers)
    record = {
        "onnx": {"file": onnx.name, "sha256": sha256_file(onnx)},
        "flavor": flavor,
        "version": trt.__version__,
        "compute_capabilities": list(capabilities),
        "profile": {"input": INPUT, "min": profile.minimum, "opt": profile.optimum, "max": profile.maximum},
        **_interface(network),
        **_metadata(onnx),
        **about,
        "layers": {"from": source, "counts": dict(sorted(counts.items())), "list": layers},
        "rebuild": rebuild + options.flags,
    }
    file = {"file": engine.name, "sha256": sha256_file(engine), "bytes": engine.stat().st_size}
    return write_sidecar(engine, {"engine": file, **record})


def _parse(parser: Any, onnx: Path, name: str, complaints: ErrorLog) -> None:
    """Read a file into a parser's network.

    Raises:
        ExportError: it is refused.
    """
    if parser.parse_from_file(str(onnx)):
        return
    errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    raise ExportError(
        f"The parser of {name} refuses the file{_opset(onnx)}: " + "; ".join(errors or complaints),
        where=onnx.name,
        hint=f"Another version may accept it; {parameter(onnx_only=True)} writes the ONNX file alone.",
    )


def _configure(
    trt: Any,
    builder: Any,
    flavor: str,
    profile: Profile,
    image: tuple[int, ...],
    capabilities: tuple[str, ...],
    options: BuildOptions,
) -> tuple[Any, tuple[str, ...]]:
    """A builder's configuration, and the compute capabilities that it builds for."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    optimization = builder.create_optimization_profile()
    optimization.set_shape(INPUT, *((size, *image) for size in (profile.minimum, profile.optimum, profile.maximum)))
    config.add_optimization_profile(optimization)
    if flavor == "rtx":
        _set_capabilities(trt, config, capabilities)
    else:
        capabilities = (_device_capability(),)
        load_timing_cache(config, _timing_cache_path(options, trt.__version__, capabilities[0]))
    return config, capabilities


def _interface(network: Any) -> dict[str, Any]:
    """What an engine takes and gives."""
    given, taken = network.get_input(0), network.get_output(0)
    return {
        "input": {"name": INPUT, "shape": list(tuple(given.shape)[1:])},
        "output": {"name": taken.name, "shape": list(tuple(taken.shape)[1:])},
        "classes": int(taken.shape[1]),
    }


def _metadata(path: Path) -> dict[str, Any]:
    """What the ONNX file says of itself, for who runs the engine without it."""
    from onnx import load

    props = {prop.key: prop.value for prop in load(path, load_external_data=False).metadata_props}
    about = {key.removeprefix(PREFIX): value for key, value in props.items() if key.startswith(PREFIX)}
    return {
        "format": about.get("format", "unknown"),
        "preprocessing": json.loads(about.get("preprocessing", "null")),
        "task": about.get("task"),
        "class_names": json.loads(about.get("classes", "[]")),
        "data": about.get("data"),
    }


def _opset(path: Path) -> str:
    """` (opset 23)`, or nothing where the file is none of ONNX."""
    from onnx import load

    try:
        model = load(path, load_external_data=False)
    except Exception:  # protobuf's own, which has no types
        return ""
    return "".join(f" (opset {entry.version})" for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def make_monitor(trt: Any, shown: Phases) -> Any:
    """An IProgressMonitor that shows the builder's phases; with `cancelled` set, the build stops at the next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled, self.stoppable = False, True

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            shown.start(name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            shown.step(name, step)
            return not self.cancelled

        def phase_finish(self, name: str) -> None:
            shown.finish(name)

    return Monitor()


def _compile(build: Callable[[], Any], monitor: Any, complaints: ErrorLog) -> Any:
    """Run the build in a thread of its own, so that this one hears Ctrl-C and stops it or waits; None if it fails."""
    import torch

    device = torch.cuda.current_device() if cuda_problem() is None else None

    def on_device() -> Any:
        if device is not None:
            torch.cuda.set_device(device)  # each thread has a current device of its own
        return build()

    with ThreadPoolExecutor(1, BUILD_THREAD) as pool:
        future = pool.submit(on_device)
        try:
            return future.result()
        except (MemoryError, RuntimeError) as error:
            complaints.append(f"{type(error).__name__}: {error}")
            return None
        except KeyboardInterrupt:
            monitor.cancelled = monitor.stoppable
            raise


def _build_error(name: str, onnx: Path, profile: Profile, complaints: ErrorLog) -> ExportError:
    said = "; ".join(complaints[-3:]) or "it gives no reason"
    if any(text in said.lower() for text in OUT_OF_MEMORY):
        return ExportError(
            f"Out of memory: {name} cannot build the engine for batches up to {profile.maximum}: {said}",
            where=onnx.name,
            hint=f"Lower {parameter('max_batch')} and {parameter('opt_batch')}, or free memory on this machine and its "
            "GPU.",
        )
    return ExportError(
        f"{name} cannot build the engine: {said}",
        where=onnx.name,
        hint=f"See the message; another version may build it. {parameter(onnx_only=True)} writes the ONNX file alone.",
    )


def _timing_cache_path(options: BuildOptions, version: str, capability: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return options.timing_cache or folder / "illama-deploy" / f"tensorrt-{version}-{capability}.timing"


def load_timing_cache(config: Any, path: Path) -> None:
    """Give a builder the timings of earlier builds, or an empty cache where there are none that fit."""
    try:
        blob = path.read_bytes()
    except OSError:
        blob = b""
    cache = config.create_timing_cache(blob)
    if cache is None or not config.set_timing_cache(cache, False):  # damaged, or of another version or device
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Keep a builder's timings for the next build.

    Raises:
        ArtifactError: it cannot be written.
    """
    with new_file(path, force=True) as aside:
        aside.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _inspect(trt: Any, log: Any, engine: Path, shape: tuple[int, ...]) -> str | None:
    """The engine inspector's JSON at one input shape, or None where the engine cannot be loaded here."""
    loaded = trt.Runtime(log).deserialize_cuda_engine(engine.read_bytes())
    context = None if loaded is None else loaded.create_execution_context()
    if context is None:
        return None
    context.set_input_shape(INPUT, shape)  # without it, formats that depend on the batch are left out
    inspector = loaded.create_engine_inspector()
    inspector.execution_context = context
    return canonical_json(json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


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
                hint=f"It knows {', '.join(sorted(known, key=float))} ({parameter('compute_capabilities')}).",
            )
        config.set_compute_capability(known[capability], position)


def _device_capability() -> str:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"
