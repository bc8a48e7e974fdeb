"""Paths that are given to libraries."""

from __future__ import annotations

from pathlib import Path

from .errors import ArtifactError

__all__ = ["require_utf8"]


def require_utf8(path: Path) -> None:
    """Refuse a path that the libraries which read and write weights and graphs cannot be given.

    Raises:
        ArtifactError: its bytes are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ArtifactError(
            "The path is not UTF-8, and libraries that read and write weights and graphs take no other.",
            where=path,
            hint="Rename it, or use another folder.",
        ) from None
