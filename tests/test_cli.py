"""The command line as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from illama_deploy.errors import DeployError, UsageError

from .conftest import Cli


@pytest.mark.slow
def test_literal_lines_one_after_the_other(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quantized = cli("quantize", "--bits", "8")
    assert quantized.code == 0
    assert "W8A8: 12 sites from 512 images of digits" in quantized.out
    exported = cli("export", "--onnx")
    assert exported.code == 0
    assert "16 of 16 quantized GEMMs on quantized kernels" in exported.out
    # A generous limit: whether INT8 is faster here is not what this test is about.
    checked = cli("check", "--seconds", 0.5, "--max-latency-ratio", 50)
    assert checked.code == 0
    assert "Verdict: PASS" in checked.out
    assert sorted(p.name for p in (tmp_path / "illama-out").iterdir()) == [
        "onnx",
        "quantized",
        "report",
        "workspace.json",
    ]


def test_workspace_option(cli: Cli, tmp_path: Path) -> None:
    assert cli("quantize", "--calib-images", 32, "--workspace", tmp_path / "w").code == 0
    assert cli("export", "--onnx", "--no-float", "--workspace", tmp_path / "w").code == 0
    assert sorted(p.name for p in (tmp_path / "w" / "onnx").iterdir()) == ["export.json", "model.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--max-latency-ratio", "50"], 0),
        (["--max-latency-ratio", "0.0001"], 1),
        (["--max-latency-ratio", "50", "--limit", "50"], 3),  # 50 images cannot prove a drop of 0.5 points
        (["--max-latency-ratio", "50", "--limit", "50", "--strict"], 1),
    ],
    ids=["pass", "fail", "inconclusive", "strict"],
)
def test_exit_codes_of_check(cli: Cli, digits_export: object, tmp_path: Path, options: list[str], code: int) -> None:
    model, float_model = digits_export.model, digits_export.float_model  # type: ignore[attr-defined]
    result = cli(
        "check", model, "--baseline", float_model, "--rounds", 10, "--batch", 1, "--out", tmp_path / "r", *options
    )
    assert result.code == code
    assert (tmp_path / "r" / "report.json").is_file()


def test_evaluate_prints_and_writes(cli: Cli, tmp_path: Path) -> None:
    result = cli("evaluate", "digits", "--limit", 64, "--json", tmp_path / "e.json")
    assert result.code == 0
    assert "top1" in result.out
    assert json.loads((tmp_path / "e.json").read_text())["images"] == 64


def test_bench_prints_a_table(cli: Cli, digits_export: object) -> None:
    model, float_model = digits_export.model, digits_export.float_model  # type: ignore[attr-defined]
    result = cli("bench", float_model, model, "--rounds", 12, "--batch", 1, "--batch", 2)
    assert result.code == 0
    assert result.out.count("model.onnx") == 2


def test_doctor(cli: Cli) -> None:
    result = cli("doctor")
    assert result.code == 0
    for line in ("torch", "instruction sets", "CPUExecutionProvider", "onnx-cpu", "tensorrt", "  run:   yes"):
        assert line in result.out
    # Every target, and both packages that build engines.
    for name in ("onnx-cpu", "onnx-cuda", "openvino", "tensorrt", "tensorrt-rtx", "executorch"):
        assert f"\n{name}\n  build: " in result.out


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out.startswith("illama-deploy ")
    listed = cli("--help").out
    for command in ("quantize", "export", "evaluate", "bench", "check", "demo", "doctor"):
        assert command in listed


def test_errors_say_what_where_and_next() -> None:
    error = UsageError("It is wrong.", where="here", hint="mend it.")
    assert isinstance(error, DeployError)
    assert str(error) == "It is wrong.\n  where: here\n  next:  mend it."
