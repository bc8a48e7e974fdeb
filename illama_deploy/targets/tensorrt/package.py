"""The two packages that build and run engines: `tensorrt` and `tensorrt_rtx`, which share one interface."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ...errors import RuntimeUnavailableError

__all__ = ["LOWEST", "MODULES", "ErrorLog", "check_version", "error_log", "is_installed", "load_package", "release"]

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
EXTRAS = {"tensorrt": "trt", "rtx": "rtx"}

#: The lowest version of each package: TensorRT has had RotaryEmbedding and RMSNormalization since 10.15, and TensorRT
#: for RTX 1.4 cannot build our engines, 1.5 and 1.6 none with 8-bit convolutions.
LOWEST = {"tensorrt": "10.15", "tensorrt-rtx": "1.7"}
#: Oldest version, and last major version, that this is written for: the interface, and the operators of our files.
SUPPORTED = {
    flavor: (tuple(map(int, LOWEST[package].split("."))), newest)
    for flavor, package, newest in (("tensorrt", "tensorrt", 11), ("rtx", "tensorrt-rtx", 1))
}

#: What an error logger keeps: messages of severity ERROR and above, oldest first.
ErrorLog = list[str]


def is_installed(flavor: str) -> bool:
    """Whether the flavor's package is there; it is not imported."""
    return importlib.util.find_spec(MODULES[flavor]) is not None


def load_package(flavor: str) -> Any:
    """Import the package of a flavor, `tensorrt` or `rtx`.

    Raises:
        RuntimeUnavailableError: not installed, its libraries do not load, or too old or too new for us.
    """
    module = MODULES[flavor]
    install = f"pip install 'illama-deploy[{EXTRAS[flavor]}]'"
    if not is_installed(flavor):
        raise RuntimeUnavailableError(f"The package {module} (flavor {flavor}) is not installed.", hint=install)
    try:
        package = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # its wheels load shared libraries of their own
        raise RuntimeUnavailableError(
            f"The package {module} is installed and cannot be loaded: {str(error).splitlines()[0]}.", hint=install
        ) from error
    check_version(flavor, str(package.__version__))
    return package


def check_version(flavor: str, version: str) -> None:
    """Refuse a version whose interface is another than ours.

    Raises:
        RuntimeUnavailableError: too old or too new.
    """
    oldest, newest = SUPPORTED[flavor]
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if found < oldest or found[0] > newest:
        late = found[:1] > (newest,)
        raise RuntimeUnavailableError(
            f"{MODULES[flavor]} {version} is too {'new' if late else 'old'}: this illama-deploy works with "
            f"{'.'.join(map(str, oldest))} to {newest}.x.",
            hint=f"pip install '{MODULES[flavor].replace('_', '-')}>={'.'.join(map(str, oldest))},<{newest + 1}'"
            + (", or a newer illama-deploy." if late else ""),
        )


def release(flavor: str, version: str) -> str:
    """The part of a version that an engine is tied to.

    TensorRT for RTX promises nothing between releases; TensorRT's own check at loading covers patches.
    """
    return version if flavor == "rtx" else ".".join(version.split(".")[:2])


def error_log(package: Any) -> tuple[Any, ErrorLog]:
    """A logger for Builder, Runtime and OnnxParser that keeps errors for our own messages and prints nothing."""
    kept: ErrorLog = []

    class Log(package.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            package.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= package.ILogger.Severity.ERROR:
                kept.append(message)

    return Log(), kept
