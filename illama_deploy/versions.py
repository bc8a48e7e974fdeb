"""Versions of what made an artifact, and the lowest that load one and that this package works with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = [
    "cpu",
    "floors",
    "installed_too_old",
    "is_older",
    "need",
    "optional_packages",
    "package_version",
    "too_old",
    "versions",
]

#: Extras that are for work on this package; the packages of all others run artifacts, or what these are measured on.
WORK = ("test", "dev", "benchmarks")
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
    found: dict[str, str] = {}
    for requirement, _ in _required():
        lowest = [part.version for part in requirement.specifier if part.operator == ">="]
        if lowest:
            found[requirement.name] = lowest[0]
    return found


def optional_packages() -> list[str]:
    """Distributions that extras bring, in order."""
    return [requirement.name for requirement, extra in _required() if extra is not None]


def _required() -> Iterator[tuple[Requirement, str | None]]:
    """What this package asks for, each with the extra that does; nothing for a checkout that was not installed."""
    from packaging.requirements import Requirement

    try:
        lines = requires("illama-deploy") or []
    except PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        extra = _EXTRA.search(str(requirement.marker))
        if extra is None or extra[1] not in WORK:
            yield requirement, None if extra is None else extra[1]


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


def installed_too_old(name: str, install: str | None = None) -> str | None:
    """Why a distribution that is here cannot be used, half a sentence; None where it can.

    Args:
        install: what to type where it is not there; None: that it is not there is fine.
    """
    if package_version(name) is None:
        return None if install is None else f"{name} is not installed: {install}"
    here, lowest = too_old().get(name, ("", ""))
    return f"{name} {here} is too old: pip install '{name}>={lowest}'" if here else None


def cpu() -> dict[str, str]:
    """What numbers depend on besides packages: the instruction set that torch computes with, such as `AVX512`. Another
    one adds in another order, which changes the last bits of ranges and now and then an integer.
    """
    import torch

    return {"capability": torch.backends.cpu.get_cpu_capability()}
