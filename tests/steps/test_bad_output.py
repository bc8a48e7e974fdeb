"""Outputs that cannot be written, exist, or are inputs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from illama_deploy.checkpoint import find_checkpoint
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.report import RENDERERS

from ..bad_input import (
    QUICK,
    assert_error,
    contents,
    limited,
    lock,
)
from ..conftest import Cli


def run_quantize(cli: Cli, out: Path, *options: object) -> tuple[int, str]:
    code, _, err = cli("quantize", "--calib-images", 8, "--out", out, *options)
    return code, err


@pytest.fixture
def steps(digits_quantized: QuantizedArtifact) -> dict[str, tuple[object, ...]]:
    """A quick run of each command that writes, up to the name of its output."""
    return {
        "quantize": ("--calib-images", 8, "--out"),
        "export": (digits_quantized.path, "--onnx", "--no-float", "--out"),
        "check": ("digits", "--baseline", "digits", *QUICK, "--out"),
        "evaluate": ("digits", "--limit", 8, "--json"),
        "bench": ("digits", "--rounds", 10, "--json"),
    }


@pytest.mark.parametrize("name", ["file/out", "file/inner/out", "n" * 300], ids=["in-a-file", "deeper", "long-name"])
@pytest.mark.parametrize("command", ["quantize", "export", "check", "evaluate", "bench"])
def test_output_cannot_be_made(
    cli: Cli, place: Path, steps: dict[str, tuple[object, ...]], command: str, name: str
) -> None:
    (place / "file").write_text("kept")
    code, _, err = cli(command, *steps[command], place / name)
    assert_error(code, err, "Cannot write there", str(place / name))
    assert contents(place) == {"file": b"kept"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("out", ["/proc/illama", "/proc/illama/out", "/proc/self/illama"])
def test_output_where_the_system_allows_none(cli: Cli, out: str) -> None:
    assert_error(*run_quantize(cli, Path(out)), "Cannot write there", out, "--out")


def test_output_in_a_locked_folder(cli: Cli, place: Path) -> None:
    lock(place, os.W_OK)
    place.chmod(0o555)
    assert_error(*run_quantize(cli, place / "out"), "Cannot write there: Permission denied", str(place / "out"))
    assert list(place.iterdir()) == []


#: Lets writes fail beyond so many bytes of a file, as on a full disk.
@pytest.mark.slow
def test_quantize_onto_a_full_disk(place: Path) -> None:
    done = limited(300_000, "quantize", "--calib-images", 8, "--out", place / "out")
    assert_error(done.returncode, done.stderr, "disk is full", "limit", str(place / "out"), "--out")
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_export_onto_a_full_disk(place: Path, digits_quantized: QuantizedArtifact) -> None:
    # The quantized file fits, the float one does not.
    done = limited(1_500_000, "export", digits_quantized.path, "--onnx", "--out", place / "out")
    assert_error(done.returncode, done.stderr, "disk is full", "limit", str(place / "out"), "--out")
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_quantize_onto_a_full_file_system(place: Path) -> None:
    script = 'mount -t tmpfs -o size=300k none "$0" || exit 77; "$@"; c=$?; ls -A "$0" | sed "s/^/left: /"; exit $c'
    command = [sys.executable, "-m", "illama_deploy", "quantize", "--calib-images", "8", "--out", str(place / "out")]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    # In a mount namespace of its own, so that nothing stays mounted.
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(place), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 77) and "illama" not in done.stderr and "error: " not in done.stderr:
        pytest.skip(f"cannot mount: {done.stderr}")
    assert_error(done.returncode, done.stderr, "disk is full", str(place / "out"), "--out")
    assert "left: " not in done.stdout


@pytest.mark.parametrize("command", ["quantize", "export", "check"])
def test_output_that_exists_is_kept(cli: Cli, place: Path, steps: dict[str, tuple[object, ...]], command: str) -> None:
    out = place / "out"
    (out / "inner").mkdir(parents=True)
    (out / "inner" / "mine.bin").write_bytes(bytes(range(256)))
    code, _, err = cli(command, *steps[command], out)
    assert_error(code, err, "exists already", str(out), "--force")
    assert contents(place) == {"out/inner/mine.bin": bytes(range(256))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "makes"),
    [
        ("quantize", {"manifest.json", "model.safetensors"}),
        ("export", {"export.json", "model.onnx"}),
        ("check", {"report.json", *(renderer.file for renderer in RENDERERS.values())}),
    ],
)
def test_force_replaces_the_output(
    cli: Cli, place: Path, steps: dict[str, tuple[object, ...]], command: str, makes: set[str]
) -> None:
    (place / "out").mkdir()
    (place / "out" / "old.bin").write_bytes(b"old")
    code, _, err = cli(command, *steps[command], place / "out", "--force")
    assert code in ((0, 1, 3) if command == "check" else (0,)), err
    assert [path.name for path in place.iterdir()] == ["out"]
    assert set(contents(place / "out")) == makes


@pytest.mark.parametrize("command", ["quantize", "export", "check"])
def test_force_with_bad_input_keeps_the_output(cli: Cli, place: Path, command: str) -> None:
    (place / "out").mkdir()
    (place / "out" / "old.bin").write_bytes(b"old")
    arguments = {
        "quantize": ("gone.pth",),
        "export": ("gone", "--onnx"),
        "check": ("gone.onnx", "--baseline", "digits"),
    }[command]
    code, _, err = cli(command, *arguments, "--out", place / "out", "--force")
    assert_error(code, err, arguments[0], hint=False)
    assert [path.name for path in place.iterdir()] == ["out"]
    assert contents(place / "out") == {"old.bin": b"old"}


@pytest.mark.parametrize("command", ["quantize", "export", "evaluate"])
def test_output_never_replaces_the_input(
    cli: Cli, place: Path, digits_quantized: QuantizedArtifact, command: str
) -> None:
    source = place / "digits.safetensors"
    shutil.copy(find_checkpoint("digits"), source)
    made = shutil.copytree(digits_quantized.path, place / "quantized")
    arguments: tuple[object, ...] = {
        "quantize": (source, "--calib-images", 8, "--out", place, "--force"),
        "export": (made, "--onnx", "--no-float", "--out", made, "--force"),
        "evaluate": (source, "--limit", 8, "--json", source),
    }[command]
    before = contents(place)
    code, _, err = cli(command, *arguments)
    assert contents(place) == before
    assert_error(code, err, str(arguments[-1] if command == "evaluate" else arguments[-2]))


def test_force_keeps_the_current_folder(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "mine.txt").write_text("mine")
    monkeypatch.chdir(place)
    code, err = run_quantize(cli, Path(), "--force")
    assert contents(place) == {"mine.txt": b"mine"}
    assert_error(code, err, "--out")


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["", "--force"])
def test_output_that_is_a_file_is_kept(cli: Cli, place: Path, options: tuple[str, ...]) -> None:
    (place / "out").write_text("mine")
    assert_error(*run_quantize(cli, place / "out", *options), str(place / "out"))
    assert contents(place) == {"out": b"mine"}


@pytest.fixture
def running(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A quantization in the midst of its calibration."""
    work = ("--calib-images", "899", "--calib-batch", "1", "--image-size", "64", "--out", str(place / "quantized"))
    # A shell starts background jobs with Ctrl-C ignored, and the process would inherit that from pytest.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "illama_deploy", "quantize", *work],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        end = time.monotonic() + 300
        while not list(place.glob(".quantized.illama-partial-*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(1.5)  # past the imports
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(running: subprocess.Popen[str], place: Path, sent: signal.Signals) -> None:
    running.send_signal(sent)
    _, err = running.communicate(timeout=30)
    assert list(place.iterdir()) == []
    assert_error(running.returncode, err, "Interrupted", "run the same command again")
