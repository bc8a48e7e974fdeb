"""The command line in a fork of a process that has imported everything, with limits on time and memory."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pkgutil
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["SECONDS", "Outcome", "Started", "run", "start", "warm_up"]

#: Of a processor; waiting, which a machine with other work does too, may take longer.
SECONDS, WAITING = 60.0, 240.0
#: What a process may hold at most before it is ended; what is too much is judged by what the original took.
PEAK_BYTES = 5 << 30
FILE_BYTES = 1 << 30
#: A step that does these for a file's sake does what no file may ask for.
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")


@dataclass(frozen=True)
class Outcome:
    """How a command line ended.

    Attributes:
        seconds: of a processor.
        code: exit code; negative: the signal that ended it.
        ended: why it was ended from outside: `time`, `memory`, `trap`, or nothing.
        peak_bytes: memory at its highest, over what the process that was forked holds.
        events: processes and connections that it started.
    """

    code: int
    ended: str
    seconds: float
    peak_bytes: int
    out: str
    err: str
    events: tuple[str, ...]


def warm_up() -> None:
    """Import what steps import, so that a fork begins at once."""
    for package in ("steps", "steps.shared", "report.renderers", "targets", "runtime", "rounding", "training"):
        found = importlib.import_module(f"illama_deploy.{package}")
        for module in pkgutil.iter_modules(getattr(found, "__path__", [])):
            importlib.import_module(f"{found.__name__}.{module.name}")
    for name in (
        "illama_deploy.cli",
        "illama_deploy.checkpoint.weight_selection",
        "jinja2",
        "jsonschema",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "onnxruntime",
        "psutil",
        "pydantic",
        "pyarrow.parquet",
        "safetensors.torch",
        "scipy.stats",
        "sklearn.datasets",
        "timm",
        "timm.data.auto_augment",
        "timm.optim",
        "torchao.quantization",
        "torchvision.datasets.folder",
        "torchvision.transforms.v2",
    ):
        with suppress(ImportError):
            importlib.import_module(name)
    import typer.main

    import illama_deploy.cli

    command = typer.main.get_command(illama_deploy.cli.app)  # takes longer than most of what is refused
    typer.main.get_command = lambda _: command
    gc.collect()
    gc.freeze()


def run(arguments: Sequence[str], place: Path, aside: Path, trap: Path | None = None) -> Outcome:
    """Run a command line in the folder `place`; what it prints, and the machine's own folders, are under `aside`."""
    return start(arguments, place, aside).wait(trap=trap)


@dataclass(frozen=True)
class Started:
    """A command line that runs."""

    pid: int
    aside: Path
    begun: float
    before: int

    def wait(self, *, trap: Path | None = None, kill_after: float | None = None) -> Outcome:
        """Wait for its end, or end it: `kill -9` after so many seconds, or where a limit is passed."""
        ended, seen = "", 0
        while True:
            done, status, used = os.wait4(self.pid, os.WNOHANG)
            if done:
                break
            seen, passed = max(seen, _held(self.pid) - self.before), time.monotonic() - self.begun
            ended = ended or (
                "memory"
                if seen > PEAK_BYTES
                else "time"
                if passed > WAITING or _busy(self.pid) > SECONDS
                else "trap"
                if trap is not None and _is_open(trap)
                else "kill"
                if kill_after is not None and passed > kill_after
                else ""
            )
            if ended:
                self._end()
            time.sleep(0.002)
        self._end()  # what it may have left running
        return Outcome(
            os.waitstatus_to_exitcode(status),
            ended,
            used.ru_utime + used.ru_stime,
            seen,
            *(_text(self.aside / name) for name in ("stdout", "stderr")),
            tuple(_text(self.aside / "events").splitlines()),
        )

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def start(arguments: Sequence[str], place: Path, aside: Path) -> Started:
    """Start a command line; see `run`."""
    for name in ("tmp", "state", "cache"):
        (aside / name).mkdir(parents=True, exist_ok=True)
    begun, before = time.monotonic(), _held("self")
    if not (pid := os.fork()):
        _child(arguments, place, aside)
    return Started(pid, aside, begun, before)


def _child(arguments: Sequence[str], place: Path, aside: Path) -> NoReturn:
    code = 99
    try:
        os.setsid()
        os.chdir(place)
        for number, name in ((0, "/dev/null"), (1, aside / "stdout"), (2, aside / "stderr"), (3, aside / "events")):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            opened = os.open(name, flags, 0o644)
            os.dup2(opened, number)
        for variable, name in (("TMPDIR", "tmp"), ("XDG_STATE_HOME", "state"), ("XDG_CACHE_HOME", "cache")):
            os.environ[variable] = str(aside / name)
        import tempfile

        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sys.addaudithook(_watch)
        from illama_deploy.cli import main

        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watch(event: str, values: tuple[Any, ...]) -> None:
    if event in WATCHED:
        if event == "socket.connect" and values[0].family == socket.AF_UNIX:
            return
        what = values[0] if event != "socket.connect" else values[1]
        os.write(3, f"{event} {what!r}\n".encode("utf-8", "backslashreplace"))
        if event.startswith("socket"):
            raise OSError("there is no network here")


def _held(pid: int | str) -> int:
    """Bytes that a process holds in memory of its own, files that it maps left out."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def _busy(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def _is_open(pipe: Path) -> bool:
    """Whether somebody reads from a named pipe."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="backslashreplace")[:20_000] if path.exists() else ""
