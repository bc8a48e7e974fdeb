"""Write aside, then rename: an artefact is whole under its final name, or not there at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ArtifactError

__all__ = ["explain_oserror", "new_directory", "new_file"]


def explain_oserror(error: OSError, path: Path) -> ArtifactError:
    """Say what an operating-system error means for who wanted to write `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ArtifactError(
            "The disk is full, or a size limit was reached; nothing was kept.",
            where=path,
            hint="Free some space, or write elsewhere (--out, --workspace).",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ArtifactError(
            f"Cannot write there: {error.strerror}.",
            where=path,
            hint="Choose a place that you may write to (--out, --workspace).",
        )
    return ArtifactError(
        f"Cannot write there: {error.strerror or error}.",
        where=path,
        hint="Choose another place (--out, --workspace).",
    )


def _is_os_error(error: BaseException) -> OSError | None:
    """Return the OSError that `error` is or wraps (safetensors puts its text into an exception of its own)."""
    if isinstance(error, OSError):
        return error
    if type(error).__name__ == "SafetensorError" and "os error" in str(error).lower():
        for code in (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT):
            if f"os error {code}" in str(error).lower():
                return OSError(code, os.strerror(code))
        return OSError(str(error))
    return None


def _refuse_existing(path: Path, force: bool) -> None:
    if os.path.lexists(path) and not force:
        raise ArtifactError(
            "The output exists already and was left as it is.",
            where=path,
            hint="Name another place with --out, or replace it with --force.",
        )


@contextmanager
def new_directory(final: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `final` that takes its name when the block ends well.

    With `force`, a directory that stood there is replaced, and only then.

    Raises:
        ArtifactError: it exists (without `force`), or cannot be written.
    """
    final = Path(final).absolute()
    _refuse_existing(final, force)
    if final.exists() and not final.is_dir():
        raise ArtifactError("The output is a file where a directory is wanted.", where=final, hint="Use --out.")
    aside: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)
        yield aside
        if final.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
            final.rename(old / final.name)
            aside.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.rename(final)
    except BaseException as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if (os_error := _is_os_error(error)) and _concerns(os_error, final, aside):
            raise explain_oserror(os_error, final) from error
        raise


@contextmanager
def new_file(final: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a path beside `final`; what is written there takes the final name when the block ends well.

    Raises:
        ArtifactError: it exists (without `force`), or cannot be written.
    """
    final = Path(final).absolute()
    _refuse_existing(final, force)
    if final.is_dir():
        raise ArtifactError("The output is a directory where a file is wanted.", where=final, hint="Name a file.")
    aside = final.with_name(f".{final.name}.partial-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(final)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if (os_error := _is_os_error(error)) and _concerns(os_error, final, aside):
            raise explain_oserror(os_error, final) from error
        raise


def _concerns(error: OSError, final: Path, aside: Path | None) -> bool:
    """Whether an error raised inside the block is about the output and not about some input file."""
    if error.filename is None:
        return True
    name = os.fspath(error.filename)
    return isinstance(name, str) and (name.startswith((str(final), str(aside))) or str(final).startswith(name))
