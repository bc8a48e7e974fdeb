"""Versions of what made an artifact."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version", "versions"]


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
