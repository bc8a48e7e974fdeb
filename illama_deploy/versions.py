"""Versions of what made an artifact, and the lowest that load one and that this package works with."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from .errors import RuntimeUnavailableError

__all__ = ["LOWEST", "cpu", "floors", "is_older", "need", "package_version", "too_old", "versions"]

#: The lowest version of each runtime that loads our files, by package. Our files are of opset 23: ONNX Runtime 1.23 has
#: no kernel for its QuantizeLinear, and TensorRT has had RotaryEmbedding and RMSNormalization since 10.15.
LOWEST = {"onnxruntime": "1.24.1", "openvino": "2025.0", "tensorrt": "10.15", "tensorrt-rtx": "1.5"}

#: Extras whose packages run artifacts; the others are for work on this package.
EXTRAS = ("trt", "rtx", "openvino", "corruptions")
_EXTRA = re.compile(r'extra == "(\S+)"')


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(*names: str) -> dict[str, str]:
    """Versions of those of `names` that are installed, this package's first."""
    found = {name: package_version(name) for name in ("illama-deploy", *names)}
    return {name: number for name, number in found.items() if number is not None}


def floors() -> dict[str, str]:
    """The lowest version of each distribution that this package asks for, as pyproject.toml says it.

    Those of extras are named, too, and those that are for other machines than this.
    """
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in requires("illama-deploy") or []]
    except PackageNotFoundError:  # a checkout that was not installed
        return {}
    found: dict[str, str] = {}
    for requirement in requirements:
        extra = _EXTRA.search(str(requirement.marker))
        lowest = [part.version for part in requirement.specifier if part.operator == ">="]
        if lowest and (extra is None or extra[1] in EXTRAS):
            found[requirement.name] = lowest[0]
    return found


def is_older(here: str, lowest: str) -> bool:
    """Whether a version comes before the lowest that will do; builds of one version (`+cu130`, `-179-…`) are equal."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(Version(here.split("-", maxsplit=1)[0]).base_version) < Version(lowest)
    except InvalidVersion:  # somebody's own build
        return False


def need(name: str, *, install: str, where: object | None = None) -> None:
    """Have a runtime that is new enough for this package, or say so.

    Args:
        name: of the module and of its distribution.
        install: what to type where it is not there.
        where: the file that needs it.

    Raises:
        RuntimeUnavailableError: not installed, or older.
    """
    if find_spec(name) is None:
        raise RuntimeUnavailableError(f"{name} is not installed.", where=where, hint=install)
    lowest = floors().get(name, "0")
    for distribution in (name, f"{name}-gpu"):
        here = package_version(distribution)
        if here is not None and is_older(here, lowest):
            raise RuntimeUnavailableError(
                f"{distribution} {here} is too old: {lowest} or newer is needed.",
                where=where,
                hint=f"pip install '{distribution}>={lowest}'",
            )


def too_old() -> dict[str, tuple[str, str]]:
    """Installed distributions that are older than this package allows: name to (version here, lowest that will do)."""
    known = {name: (package_version(name), lowest) for name, lowest in floors().items()}
    return {name: (here, lowest) for name, (here, lowest) in known.items() if here and is_older(here, lowest)}


def cpu() -> dict[str, str]:
    """What numbers depend on besides packages: the instruction set that torch computes with, such as `AVX512`. Another
    one adds in another order, which changes the last bits of ranges and now and then an integer.
    """
    import torch

    return {"capability": torch.backends.cpu.get_cpu_capability()}
