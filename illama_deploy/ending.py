"""How a process ends that is told to stop: SIGINT (Ctrl-C), SIGTERM (a cancelled job), SIGHUP (a closed terminal).

While a command works, a signal raises `Stopped`, so that everything unwinds and nothing half-written stays. Where there
is nothing to unwind yet (Python is still importing what the command needs) the process ends at once. Two things would
lose the exception: an import that it breaks in the middle, so it waits for the import's end; and code that swallows it
(callbacks out of C++, `__del__`), so it is raised again until it arrives.

Imports nothing that takes time: the entry points listen before anything else is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["INTERRUPTED", "Stopped", "came_from_stop", "close", "ended", "listen", "stop_listening", "work"]

INTERRUPTED = (
    "Interrupted; nothing half-written was kept.\n  next:  run the same command again; long work goes on where it was."
)
#: Exit code of a command that was stopped.
CODE = 2
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
#: Seconds until a signal that found no way is tried again.
AGAIN = 0.05
#: Where the import system's own frames lie.
IMPORTING = "<frozen importlib"
#: The module that holds the commands; what it imports, it imports before a command does anything.
COMMANDS = "illama_deploy.cli"


class Stopped(KeyboardInterrupt):
    """A signal told this process to stop."""


class _State:
    """Of this process.

    Attributes:
        owner: the process that listens; a child that a library forks inherits the handlers.
        phase: `starting`, `working`, `closing` (the outcome is being said) or `ended` (it has been).
        told: signals that came since work began.
    """

    def __init__(self) -> None:
        self.owner = -1
        self.phase = "starting"
        self.code = CODE
        self.told = 0
        self.before: dict[int, object] = {}


_state = _State()


def listen() -> None:
    """Hear SIGINT, SIGTERM and SIGHUP from now on, but for those that the parent process had ignored (`nohup`)."""
    if threading.current_thread() is not threading.main_thread() or _state.owner == os.getpid():
        return
    _state.__init__()  # type: ignore[misc]
    _state.owner = os.getpid()
    for number in SIGNALS:
        if (before := signal.getsignal(number)) != signal.SIG_IGN:
            _state.before[number] = before
            signal.signal(number, _receive)
    if hasattr(signal, "SIGALRM"):
        _state.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _try_again)


def stop_listening() -> None:
    """Give every signal back to who had it before."""
    if _state.owner != os.getpid():
        return
    _set_timer(0)
    for number, handler in _state.before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
    _state.owner = -1


def work() -> None:
    """From now on there may be something to unwind: a signal raises `Stopped`."""
    _state.phase, _state.told = "working", 0


def close() -> None:
    """What there was has been unwound: signals no longer raise."""
    _set_timer(0)
    _state.phase = "closing"


def ended(code: int) -> None:
    """Everything has been said, and this is the exit code; a signal only ends the process sooner."""
    _state.phase, _state.code = "ended", code


def _receive(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.owner:  # a child that a library forked (a worker, OpenVINO's telemetry)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        os._exit(128 + number)
    _state.told += 1
    if _state.phase == "starting":
        _leave()
    elif _state.phase == "ended":
        os._exit(_state.code)
    elif _state.phase == "closing":
        if _state.told > 2:  # whoever reads our last words does not read on
            os._exit(CODE)
    elif _state.told == 1:
        _raise(frame)
    # Else it is on its way; a second one would break the unwinding.


def _try_again(number: int, frame: FrameType | None) -> None:
    if os.getpid() == _state.owner and _state.phase == "working" and _state.told:
        _raise(frame)


def _raise(frame: FrameType | None) -> None:
    """Raise, but not into an import, nor into what `Stopped` is unwinding already."""
    importer = _importer(frame)
    if importer == COMMANDS:
        _leave()
    _set_timer(AGAIN)
    if (importer is None or not hasattr(signal, "setitimer")) and not came_from_stop(sys.exc_info()[1]):
        raise Stopped


def _importer(frame: FrameType | None) -> str | None:
    """The module that the outermost import in progress stands in, or None where nothing is being imported."""
    found = None
    while frame is not None and frame.f_back is not None:
        own, caller = frame.f_code.co_filename, frame.f_back.f_code.co_filename
        if own.startswith(IMPORTING) and not caller.startswith(IMPORTING):
            found = str(frame.f_back.f_globals.get("__name__"))
            if found == COMMANDS:
                return found
        frame = frame.f_back
    return found


def came_from_stop(error: BaseException | None) -> bool:
    """Whether an error is `Stopped`, or was raised while that was on its way."""
    seen = 0
    while error is not None and seen < 100:
        if isinstance(error, Stopped):
            return True
        error, seen = error.__context__, seen + 1
    return False


def _set_timer(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _leave() -> None:
    """End at once: there is nothing to unwind."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"error: {INTERRUPTED}\n".encode())
    os._exit(CODE)
