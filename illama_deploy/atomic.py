"""Write aside, then exchange names: an artifact is whole under its final name, or what was there before still is.

What is put aside stands beside the output as `.NAME.illama-partial-RANDOM`, held by a lock that ends with its process,
however that ends. So the next run in that place knows what is dead, and clears it. A directory has one writer at a time
(`.NAME.illama-lock`).
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from .errors import ArtifactError, parameter
from .paths import require_utf8

__all__ = ["beside", "explain_oserror", "new_directory", "new_file", "owned", "require_apart"]

#: Not on Windows, where an open file cannot be removed or renamed.
fcntl: Any = None if sys.platform == "win32" else importlib.import_module("fcntl")
#: What holds these names is ours.
MARK = "illama"
PARTIAL, OLD, LOCK = f"{MARK}-partial-", f"{MARK}-old-", f"{MARK}-lock"


def _elsewhere() -> str:
    return f"Write elsewhere ({parameter('out')}, {parameter('workspace')}, {parameter('json')})."


def beside(final: Path, suffix: str) -> Path:
    """The hidden name beside an output under which something of ours stands."""
    return final.with_name(f".{final.name}.{suffix}")


def explain_oserror(error: OSError, path: Path) -> ArtifactError:
    """Say what an operating-system error means for who wanted to write `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ArtifactError(
            "The disk is full, or a size limit was reached; nothing was kept.",
            where=path,
            hint=f"Free some space. {_elsewhere()}",
        )
    return ArtifactError(f"Cannot write there: {error.strerror or error}.", where=path, hint=_elsewhere())


def _as_os_error(error: BaseException) -> OSError | None:
    """Return the OSError that `error` is or wraps (safetensors puts its text into an exception of its own)."""
    if isinstance(error, OSError):
        return error
    if type(error).__name__ == "SafetensorError":
        for code in (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT):
            if f"os error {code}" in str(error).lower() or f"Os {{ code: {code}," in str(error):
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
            hint=f"Name another place with {parameter('out')}, or replace it with {parameter(force=True)}.",
        )
    if final.is_dir() != directory or not (directory or final.is_file()):
        kind = "directory" if directory else "regular file"
        raise ArtifactError(f"The output is no {kind}, and one is wanted.", where=final, hint=_elsewhere())
    require_apart(final, (*inputs, Path.cwd()) if directory else inputs)


def require_apart(final: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that would replace one of its inputs, or a directory that holds one.

    Raises:
        ArtifactError: it would.
    """
    for path in map(Path, inputs):
        if path.exists() and path.resolve().is_relative_to(final.resolve()):
            raise ArtifactError(
                "Replacing the output would delete what is read from, or the current folder.",
                where=final,
                hint=_elsewhere(),
            )


@contextmanager
def owned(final: Path) -> Iterator[None]:
    """Be the only process that writes a place, until the block or the process ends.

    Raises:
        ArtifactError: another process is at it, something else has the lock's name, or the place cannot be written.
    """
    path = beside(final, LOCK)
    with _explained(final, always=True):
        held = _hold(path)
    if held is None:
        raise ArtifactError(
            "Another run is writing there now.",
            where=final,
            hint=f"Wait until it has ended, or name another {parameter('out')}.",
        )
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: who opened it meanwhile sees that the name has gone
        os.close(held)


def _hold(path: Path) -> int | None:
    """An open lock file of that name, or None where another process holds it."""
    while True:
        if fcntl is None:
            try:  # goes with its process
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_TEMPORARY", 0), 0o600)
            except FileExistsError:
                return None
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        seen = os.fstat(opened)
        if not stat.S_ISREG(seen.st_mode) or seen.st_size:
            os.close(opened)
            raise OSError(errno.EEXIST, "something else stands where the lock would be", str(path))
        if not _lock(opened):
            os.close(opened)
            return None
        if _is(path, seen):
            return opened
        os.close(opened)  # its owner removed it between the two calls


def _lock(opened: int) -> bool:
    """Lock an open file or directory for as long as it is open; False where it is locked already."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is(path: Path, seen: os.stat_result) -> bool:
    """Whether a name still leads to that very file or directory."""
    try:
        now = path.lstat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)


def _clear_dead(final: Path) -> None:
    """Remove what killed processes left beside an output; put back what one was about to replace."""
    for prefix in (f".{final.name}.{OLD}", f".{final.name}.{PARTIAL}"):
        for name in [entry.name for entry in os.scandir(final.parent) if entry.name.startswith(prefix)]:
            left = final.with_name(name)
            with suppress(OSError):
                opened = None if fcntl is None else os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if opened is None or not _lock(opened):
                        continue  # somebody is at it
                    if prefix.endswith(OLD) and not os.path.lexists(final):
                        left.rename(final)
                    else:
                        _remove(left)
                finally:
                    if opened is not None:
                        os.close(opened)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def new_directory(
    final: Path,
    *,
    force: bool = False,
    inputs: Iterable[str | Path] = (),
    keep: Callable[[Path], Path | None] | None = None,
) -> Iterator[Path]:
    """Yield an empty directory beside `final` that takes its name when the block ends well.

    Args:
        force: replace a directory that stands there, and only once the new one is whole.
        inputs: paths that are read from; a directory that holds one is never replaced.
        keep: given the new directory, says where the replaced one goes instead of being removed; unless something
            stands there.

    Raises:
        ArtifactError: it exists (without `force`), another process is writing it, it came or changed meanwhile, or it
            cannot be written.
    """
    final, inputs = Path(final).absolute(), tuple(inputs)
    require_utf8(final)
    if force and final.is_symlink() and final.is_dir():
        final = final.resolve()  # the link stays, and what it leads to is replaced
    with _explained(final, always=True):
        final.parent.mkdir(parents=True, exist_ok=True)
    with owned(final):
        with _explained(final, always=True):
            _clear_dead(final)
            _may_be_made(final, force=force, directory=True, inputs=inputs)
            before = final.lstat() if os.path.lexists(final) else None
            aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.{PARTIAL}", dir=final.parent))
        opened = None if fcntl is None else os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            aside.chmod(0o777 & ~_umask())
            if opened is not None:
                _lock(opened)
            with _explained(final):
                yield aside
                for path in aside.rglob("*"):
                    # safetensors makes its files readable by their owner alone.
                    path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
                if before is None:
                    _take_new_name(aside, final)
                else:
                    _replace(aside, final, before, inputs, keep(aside) if keep else None)
        finally:
            _remove(aside)
            if opened is not None:
                os.close(opened)


def _replace(aside: Path, final: Path, before: os.stat_result, inputs: Iterable[str | Path], keep: Path | None) -> None:
    """Give `aside` the name of the directory that it replaces, which then is under the other name."""
    if not _is(final, before):
        raise _changed(final)
    _may_be_made(final, force=True, directory=True, inputs=inputs)
    kept = keep is not None and not os.path.lexists(keep)
    if kept:  # the new one stands there first, so that neither is ever without a name that stays
        assert keep is not None
        keep.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(keep)
        aside = keep
    try:
        if not _exchange(aside, final):
            old = Path(tempfile.mkdtemp(prefix=f".{final.name}.{OLD}", dir=final.parent))
            final.rename(old)  # onto an empty directory
            aside.rename(final)
            old.rename(aside)
    except OSError:
        if kept:
            _remove(aside)
        raise


def _take_new_name(aside: Path, final: Path) -> None:
    """Rename where nothing stands.

    Raises:
        ArtifactError: something has come there.
    """
    done = _rename(aside, final, exchange=False)
    if done is None:  # no such call here: a moment lies between the two
        if os.path.lexists(final):
            raise _changed(final)
        aside.rename(final)
    elif not done:
        raise _changed(final)


def _changed(final: Path) -> ArtifactError:
    return ArtifactError(
        "Something came to stand at the output, or was replaced there, while this was running; it was left as it is.",
        where=final,
        hint=f"Run the same command again with another {parameter('out')}.",
    )


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or its file system cannot."""
    return bool(_rename(one, other, exchange=True))


def _rename(one: Path, other: Path, *, exchange: bool) -> bool | None:
    """Rename by a call that exchanges, or that replaces nothing: False where something stands there, None where there
    is no such call."""
    call = _rename_call()
    if call is None:
        return None
    ctypes.set_errno(0)
    if call(os.fsencode(one), os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EEXIST, errno.ENOTEMPTY):
        return False
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return None
    raise OSError(code, os.strerror(code), str(other))


@cache
def _rename_call() -> Any:
    """`renameat2` of Linux or `renamex_np` of macOS, taking both names and whether to exchange them."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            swap, exclusive = 2, 4
            return lambda a, b, exchange: library.renamex_np(a, b, swap if exchange else exclusive)
        here, exchanged, no_replace = -100, 2, 1
        rename = library.renameat2
        return lambda a, b, exchange: rename(here, a, here, b, ctypes.c_uint(exchanged if exchange else no_replace))
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def new_file(final: Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a path beside `final`; what is written there takes the final name when the block ends well.

    Args:
        force: replace a file that stands there.
        inputs: paths that are read from and must not be replaced.

    Raises:
        ArtifactError: it exists (without `force`), came meanwhile, or cannot be written.
    """
    final = Path(final).absolute()
    with _explained(final, always=True):
        _may_be_made(final, force=force, directory=False, inputs=inputs)
        final.parent.mkdir(parents=True, exist_ok=True)
        _clear_dead(final)
        # A name or place that cannot be written shows before any work is done.
        opened, aside = _file_aside(final)
    try:
        with _explained(final):
            yield aside
            aside.chmod(0o666 & ~_umask())
            if force:
                aside.replace(final)
            else:
                _take_new_name(aside, final)
    finally:
        with suppress(OSError):
            aside.unlink()
        if opened is not None:
            os.close(opened)


def _file_aside(final: Path) -> tuple[int | None, Path]:
    """A new file beside `final` that is locked, and its name."""
    while True:
        opened, name = tempfile.mkstemp(prefix=f".{final.name}.{PARTIAL}", dir=final.parent)
        if fcntl is None:  # an open file cannot be renamed there
            os.close(opened)
            return None, Path(name)
        if _lock(opened) and _is(Path(name), os.fstat(opened)):
            return opened, Path(name)
        os.close(opened)  # another run took it for a dead one's before it was locked


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
