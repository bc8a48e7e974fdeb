"""What ExecuTorch and what it loads say to a terminal, kept off it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet(*, native: bool = False) -> Iterator[None]:
    """Keep what torch and ExecuTorch log, warn and print to themselves, and leave logging as it was.

    Args:
        native: also what C++ writes to the process's standard error, such as cpuinfo's remarks at the first load.
    """
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    sink = io.StringIO()
    with contextlib.ExitStack() as stack:
        if native:
            stack.enter_context(_without_native_errors())
        try:
            logging.disable(logging.CRITICAL)
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(contextlib.redirect_stdout(sink))
            stack.enter_context(contextlib.redirect_stderr(sink))
            warnings.simplefilter("ignore")
            yield
        finally:
            # ExecuTorch's modules call logging.basicConfig as they are imported.
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.disable(disabled)


@contextlib.contextmanager
def _without_native_errors() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # there is no such stream
        yield
        return
    try:
        if sys.__stderr__ is not None:
            sys.__stderr__.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
