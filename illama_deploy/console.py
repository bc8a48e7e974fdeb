"""What is printed: text that cannot do anything to a terminal, through streams that cannot fail.

The exit code of a command is what it found out, whatever becomes of its words: a pipe that nobody reads any more, a
closed or full output, an encoding without the marks that are printed.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from .names import shown

__all__ = ["as_text", "one_line", "say", "steady_streams", "visible"]

SURROGATES = re.compile("[\ud800-\udfff]")
#: What stands for a mark in an encoding that lacks it.
PLAIN = {
    **{"–": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "×": "x", "→": "->", "·": "*", "±": "+-", "°": "deg"},
    **{"─": "-", "✅": "[pass]", "❌": "[fail]", "❔": "[?]"},
}
#: Seconds that a full pipe, set to non-blocking by whoever shares it, is given.
PATIENCE = 60.0


def visible(text: str) -> str:
    """The text with `\\x1b` written out where an escape character was, and so on; lines stay lines."""
    return shown(text, keep="\n\t")


def one_line(text: str) -> str:
    """`visible`, on one line."""
    return shown(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def as_text(value: Any) -> Any:
    """Plain values whose texts UTF-8 can hold: a byte of a file name that is no text becomes `\\xe9`."""
    if isinstance(value, str):
        return SURROGATES.sub(lambda found: shown(found[0]), value)
    if isinstance(value, dict):
        return {as_text(key): as_text(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_text(one) for one in value]
    return value


def say(text: str, *, error: bool = False) -> None:
    """Print a line to standard output, or to standard error."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        print(visible(text), file=stream)


@contextmanager
def steady_streams() -> Iterator[None]:
    """Put streams in the place of `sys.stdout` and `sys.stderr` whose writes never fail.

    Before that the three standard descriptors are taken where they are free, or a file that is opened later would get
    one of them, and with it what libraries print.
    """
    _occupy()
    codecs.register_error("illama-deploy", _plain)
    before = sys.stdout, sys.stderr
    sinks = [_Sink(stream) for stream in before]
    sys.stdout, sys.stderr = (_over(sink, stream) for sink, stream in zip(sinks, before, strict=True))
    try:
        yield
    finally:
        sys.stdout.flush()
        lost = sinks[0].lost
        if lost is not None and getattr(lost, "errno", None) not in (errno.EPIPE, errno.EBADF):
            say(f"Standard output could not be written: {getattr(lost, 'strerror', None) or lost}.", error=True)
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                taken = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
                os.set_inheritable(taken, True)


def _over(sink: _Sink, stream: TextIO | None) -> TextIO:
    if stream is not None and sink.target is None:
        return stream  # text alone, in memory: nothing to fail
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(sink, encoding, errors="illama-deploy", line_buffering=True)  # type: ignore[type-var]


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler for `codecs`: marks in ASCII, everything else written out."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (PLAIN.get(one) or shown(one).encode("ascii", "backslashreplace").decode() for one in lacking)
    return "".join(plain), error.end


class _Sink(io.RawIOBase):
    """Bytes on their way to a stream's own file. What cannot be written is dropped, and so is everything after it.

    Attributes:
        target: a binary file, or None where there is none to write to.
        lost: the first error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        buffer = getattr(stream, "buffer", None)
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
        # Past the stream's buffer: what it cannot get rid of, it would try to write once more when Python ends.
        self.target: Any = getattr(buffer, "raw", buffer)
        self.lost: Exception | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self.target is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.target.fileno())

    def isatty(self) -> bool:
        try:
            return self.target is not None and bool(self.target.isatty())
        except ValueError:  # it is closed
            return False

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size, end = len(left), time.monotonic() + PATIENCE
        while len(left) and self.target is not None and self.lost is None:
            try:
                done = self.target.write(left)
                if done is None:
                    if time.monotonic() > end:
                        raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
                    time.sleep(0.01)
                left = left[done or 0 :]
            except (OSError, ValueError) as error:
                self.lost = error
        return size
