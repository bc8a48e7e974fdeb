"""Write aside, then rename: an artifact is whole under its final name, or not there at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ArtifactError

__all__ = ["explain_oserror", "new_directory", "new_file"]

ELSEWHERE = "Write elsewhere (--out, --workspace, --json)."


def explain_oserror(error: OSError, path: Path) -> ArtifactError:
    """Say what an operating-system error means for who wanted to write `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ArtifactError(
            "The disk is full, or a size limit was reached; nothing was kept.",
            where=path,
            hint=f"Free some space. {ELSEWHERE}",
        )
    return ArtifactError(f"Cannot write there: {error.strerror or error}.", where=path, hint=ELSEWHERE)


def _as_os_error(error: BaseException) -> OSError | None:
    """Return the OSError that `error` is or wraps (safetensors puts its text into an exception of its own)."""
    if isinstance(error, OSError):
        return error
    if type(error).__name__ == "SafetensorError":
        for code in (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT):
            if f"os error {code}" in str(error).lower():
                return OSError(code, os.strerror(code))
    return None


def _concerns(error: OSError, final: Path) -> bool:
    """Whether an error raised inside the block is about the output and not about some input file."""
    if isinstance(error.filename, str):
        return Path(error.filename).absolute().is_relative_to(final.parent)
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def _explained(final: Path, *, always: bool = False) -> Iterator[None]:
    """Turn errors about the output into `ArtifactError`; with `always`, every OSError is about it."""
    try:
        yield
    except Exception as error:
        if (os_error := _as_os_error(error)) and (always or _concerns(os_error, final)):
            raise explain_oserror(os_error, final) from error
        raise


def _may_be_made(final: Path, *, force: bool, directory: bool, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that exists (without `force`), is of the other kind, or would take an input with it."""
    if not os.path.lexists(final):
        return
    if not force:
        raise ArtifactError(
            "The output exists already and was left as it is.",
            where=final,
            hint="Name another place with --out, or replace it with --force.",
        )
    if final.is_dir() != directory or not (directory or final.is_file()):
        kind = "directory" if directory else "regular file"
        raise ArtifactError(f"The output is no {kind}, and one is wanted.", where=final, hint=ELSEWHERE)
    for path in map(Path, (*inputs, Path.cwd()) if directory else inputs):
        if path.exists() and path.resolve().is_relative_to(final.resolve()):
            raise ArtifactError(
                "Replacing the output would delete what is read from, or the current folder.",
                where=final,
                hint=ELSEWHERE,
            )


@contextmanager
def new_directory(final: Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield an empty directory beside `final` that takes its name when the block ends well.

    Args:
        force: replace a directory that stands there, and only once the new one is whole.
        inputs: paths that are read from; a directory that holds one is never replaced.

    Raises:
        ArtifactError: it exists (without `force`), or cannot be written.
    """
    final = Path(final).absolute()
    with _explained(final, always=True):
        _may_be_made(final, force=force, directory=True, inputs=inputs)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
        aside.chmod(0o777 & ~_umask())
    try:
        with _explained(final):
            yield aside
            for path in aside.rglob("*"):
                # safetensors makes its files readable by their owner alone.
                path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
            if final.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
                final.rename(old / final.name)
                aside.rename(final)
                shutil.rmtree(old, ignore_errors=True)
            else:
                aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_file(final: Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a path beside `final`; what is written there takes the final name when the block ends well.

    Args:
        force: replace a file that stands there.
        inputs: paths that are read from and must not be replaced.

    Raises:
        ArtifactError: it exists (without `force`), or cannot be written.
    """
    final = Path(final).absolute()
    aside = final.with_name(f".{final.name}.partial-{os.getpid()}")
    with _explained(final, always=True):
        _may_be_made(final, force=force, directory=False, inputs=inputs)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()  # a name or place that cannot be written shows before any work is done
    try:
        with _explained(final):
            yield aside
            aside.chmod(0o666 & ~_umask())
            aside.replace(final)
    finally:
        with suppress(OSError):
            aside.unlink()


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
