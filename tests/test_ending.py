"""Signals at any moment, and the words of a command whose terminal is gone: the exit code holds."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from illama_deploy import ending
from illama_deploy.cli import main
from illama_deploy.console import as_text, one_line, steady_streams, visible
from illama_deploy.hashing import canonical_json
from illama_deploy.steps.export import ExportResult

from .reports import document

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process hears signals as a command at work does."""
    # A signal that found its way may come again before a test is left on a busy machine, and would end all tests.
    monkeypatch.setattr(ending, "AGAIN", 2.0)
    before = [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)]
    if before[0] == signal.SIG_IGN:  # as a shell starts background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ending.listen()
    ending.work()
    yield
    ending.close()
    ending.stop_listening()
    for number, handler in zip((*SIGNALS, signal.SIGALRM), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_unwinds(working: None, number: signal.Signals) -> None:
    with pytest.raises(ending.Stopped):
        os.kill(os.getpid(), number)


def test_a_swallowed_signal_comes_again(working: None) -> None:
    with pytest.raises(ending.Stopped):
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(200):
            time.sleep(0.05)


def test_unwinding_is_not_broken_by_another_signal(working: None) -> None:
    tidied = []
    with pytest.raises(ending.Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                time.sleep(1.2 * ending.AGAIN)
                raise OSError("gone already")
            except OSError:
                time.sleep(1.2 * ending.AGAIN)
            tidied.append(True)
    assert tidied


def test_an_import_is_not_broken(working: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module_of_a_test.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.2)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ending.Stopped):
        import slow_module_of_a_test  # noqa: F401

        for _ in range(200):
            time.sleep(0.05)
    assert sys.modules.pop("slow_module_of_a_test").whole


def test_what_the_parent_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ending.listen()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        ending.stop_listening()
        signal.signal(signal.SIGHUP, before)


#: Runs a command line; the signal arrives when a module of that name is about to be imported.
AT_IMPORT = """
import os, signal, sys
name, number, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
import illama_deploy.__main__ as entry
class Finder:
    def find_spec(self, module, path, target=None):
        if module == name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Finder())
sys.argv = ["illama-deploy", *arguments]
entry.main()
"""


@pytest.mark.parametrize(
    ("number", "module"),
    [
        (signal.SIGINT, "typer"),
        (signal.SIGTERM, "illama_deploy.cli"),
        (signal.SIGHUP, "torch"),
        (signal.SIGINT, "numpy"),
    ],
    ids=str,
)
def test_a_signal_in_the_first_second(tmp_path: Path, number: signal.Signals, module: str) -> None:
    """While the command line itself, or what a command needs, is being imported."""
    command = ["quantize", "--out", str(tmp_path / "quantized")]
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module, str(int(number)), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Interrupted; nothing half-written was kept.")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


#: Runs a command line in which the signal is swallowed while the output is being written.
SWALLOWED = """
import os, signal, sys
import illama_deploy.__main__ as entry
from illama_deploy.steps.shared import calibrated as step
inner = step.Calibrated
def swallows(*args, **options):
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    except BaseException:
        pass
    while True:
        inner(*args, **options)
step.Calibrated = swallows
sys.argv = ["illama-deploy", "quantize", "--calib-images", "8", "--out", sys.argv[1]]
entry.main()
"""


def test_nothing_is_left_where_a_library_swallowed_the_signal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, str(tmp_path / "q")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- streams ---------------------------------------------------------------------------------------------------------


def _unread_pipe() -> io.TextIOWrapper:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def _closed() -> io.TextIOWrapper:
    stream = _unread_pipe()
    stream.close()
    return stream


def _in(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding)


STREAMS: dict[str, Any] = {
    "nobody reads": _unread_pipe,
    "closed": _closed,
    "full": lambda: open("/dev/full", "w"),  # noqa: PTH123, SIM115
    "none": lambda: None,
    "ascii": lambda: _in("ascii"),
    "cp1252": lambda: _in("cp1252"),
}


@pytest.mark.parametrize(("kind", "code"), [*zip(STREAMS, (0, 1) * 3, strict=True)])
def test_the_exit_code_is_the_verdicts(
    digits_export: ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, code: int
) -> None:
    if kind == "full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    check = ["check", str(digits_export.directory), "--rounds", "10", "--batch", "1", "--no-sensitivity"]
    limits = ["--limit", "64", "--max-drop", "50", "--max-latency-ratio", "1e-6" if code else "1e6"]
    stream = STREAMS[kind]()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", stream)
        with pytest.raises(SystemExit) as stopped:
            main([*check, *limits, "--out", str(tmp_path / "r")])
    assert stopped.value.code == code
    assert json.loads((tmp_path / "r" / "report.json").read_text())["verdict"] == ("fail" if code else "pass")
    if kind in ("ascii", "cp1252"):
        shown = stream.buffer.getvalue().decode(kind)
        assert "Verdict: " in shown
        assert "<= " in shown
    if stream is not None:
        stream.close()


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full", "| true"])
def test_a_shells_redirections(tmp_path: Path, redirect: str) -> None:
    """Python's own end adds nothing."""
    line = f'"$0" -m illama_deploy --version {redirect}\nexit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert ("No space left" in done.stderr) == (redirect == ">/dev/full")


def test_no_file_gets_the_descriptor_that_others_print_to(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(canonical_json(document()))
    line = '"$0" -m illama_deploy report report.json --format csv >&- 2>&- <&-'
    assert subprocess.run(["bash", "-c", line, sys.executable], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "report.csv").read_text().startswith("created,")


def test_an_error_stays_an_error_without_a_place_to_say_it(tmp_path: Path) -> None:
    for redirect in ("2>/dev/full", "2>&-"):
        line = f'"$0" -m illama_deploy --nothing-like-it {redirect}'
        assert subprocess.run(["bash", "-c", line, sys.executable], cwd=tmp_path, check=False).returncode == 2


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"COLUMNS": "0"}, {"COLUMNS": "x"}, {"COLUMNS": "3"}], ids=str
)
def test_odd_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    from illama_deploy.report import print_report

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print_report(document())
    assert "FAIL" in capsys.readouterr().out


def test_a_slow_reader_gets_everything() -> None:
    """A pipe that another process has set to non-blocking."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = "x" * 300_000
    got = subprocess.Popen(["wc", "-c"], stdin=read, stdout=subprocess.PIPE, text=True)
    os.close(read)
    before = sys.stdout
    sys.stdout = os.fdopen(write, "w")
    try:
        with steady_streams():
            print(text)
        sys.stdout.close()
    finally:
        sys.stdout = before
    assert int(got.communicate()[0]) == len(text) + 1


def test_nothing_in_a_name_moves_the_cursor() -> None:
    name = "a\x1b[2J\u202eb\r\n\udce9\ud800ü"
    assert visible(name) == "a\\x1b[2J\\u202eb\\r\n\\xe9\\ud800ü"
    assert one_line(name) == "a\\x1b[2J\\u202eb \\xe9\\ud800ü"
    assert as_text({"a\udce9": ["\udce9", 1, None]}) == {"a\\xe9": ["\\xe9", 1, None]}
