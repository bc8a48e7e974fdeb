"""Artifacts that cannot be measured, or not together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from illama_deploy.steps.export import ExportResult

from ..bad_input import (
    PLAIN,
    QUICK,
    Refused,
    State,
    assert_error,
    flatten_onnx,
    save,
)
from ..conftest import Cli


@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_no_such_artifact(refused: Refused, command: str) -> None:
    refused(command, "gone.onnx", says=("no such artifact", "gone.onnx"))


def test_folder_is_no_artifact(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("evaluate", tmp_path / "empty", says=("neither", "empty"))


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut"])
def test_damaged_onnx(refused: Refused, tmp_path: Path, digits_export: ExportResult, damage: str) -> None:
    path = tmp_path / "bad.onnx"
    whole = digits_export.model.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"garbage " * 30, "cut": whole[: len(whole) // 2]}[damage])
    refused("evaluate", path, says=("cannot be read as ONNX", "bad.onnx"))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"images": ("batch", 10)}, id="no-images"),
        pytest.param({"images": ("batch", 1, "height", "width"), "logits": ("batch", "n")}, id="open-size"),
        pytest.param({"images": (1, 1, 2, 5), "logits": (1, 10)}, id="fixed-batch"),
        pytest.param({"kind": TensorProto.INT64}, id="integers"),
    ],
)
def test_onnx_of_another_shape(refused: Refused, tmp_path: Path, options: dict[str, Any]) -> None:
    path = flatten_onnx(tmp_path / "other.onnx", **options)
    refused("evaluate", path, "--data", "digits", says=("other.onnx",))


@pytest.mark.parametrize(
    "metadata",
    [
        {"preprocessing": "{"},
        {"preprocessing": "[]"},
        {"preprocessing": '{"size": [3, 3], "mean": [0.5], "std": [0.5]}'},
        {"classes": "5"},
    ],
    ids=str,
)
def test_onnx_with_wrong_metadata(refused: Refused, tmp_path: Path, metadata: dict[str, str]) -> None:
    path = flatten_onnx(tmp_path / "other.onnx", **metadata)
    refused("evaluate", path, "--data", "digits", says=("other.onnx",), hint=False)


def test_onnx_without_data(refused: Refused, tmp_path: Path) -> None:
    path = flatten_onnx(tmp_path / "other.onnx")
    refused("evaluate", path, says=("needs images", "not been said", "other.onnx", "--data"))


@pytest.mark.parametrize("command", ["evaluate", "bench", "check"])
@pytest.mark.parametrize("option", ["--threads", "--batch"])
def test_zero_of_something(refused: Refused, command: str, option: str) -> None:
    if (command, option) == ("check", "--batch"):
        refused("check", "digits", "--baseline", "digits", "--limit", 8, "--batch", 0, says=("one image", "--batch"))
        return
    options = ("--baseline", "digits", *QUICK) if command == "check" else ()
    says = "one thread" if option == "--threads" else "one image"
    refused(command, "digits", *options, option, 0, says=(says, option))


@pytest.mark.parametrize(
    "options",
    [("--limit", 0), ("--seconds", 0), ("--confidence", 2), ("--max-latency-ratio", 0), ("--max-drop", "nan")],
    ids=lambda options: " ".join(map(str, options)),
)
def test_check_of_nothing(refused: Refused, options: tuple[object, ...]) -> None:
    refused(
        "check",
        "digits",
        "--baseline",
        "digits",
        "--batch",
        1,
        "--limit",
        8,
        "--seconds",
        0.1,
        *options,
        says=(str(options[0]),),
    )


def test_check_against_another_class_count(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    five = {key: digits_state[key][:5] for key in ("head.weight", "head.bias")}
    baseline = save(tmp_path / "five.pth", digits_state, **five)
    refused("check", "digits", "--baseline", baseline, *PLAIN, *QUICK, says=("5 classes", "10", "five.pth", "digits"))


def test_check_of_different_preprocessing(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    baseline = save(tmp_path / "other.pth", digits_state)
    err = refused(
        "check", "digits", "--baseline", baseline, *QUICK, says=("differently prepared", "other.pth", "--mean")
    )
    assert "mean=(0.3,)" in err
    assert "mean=(0.5,)" in err


def test_bench_of_different_sizes(refused: Refused, tmp_path: Path) -> None:
    other = flatten_onnx(tmp_path / "other.onnx")
    refused("bench", "digits", other, "--rounds", 10, says=("different sizes", "other.onnx"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("export", "--onnx"), ("quantized", "illama-deploy quantize")),
        (("check",), ("nothing was made here", "illama-deploy export --onnx")),
        (("check", "digits", "--data", "digits"), ("No baseline is named", "--baseline")),
        (("evaluate",), ("nothing was made here", "Name an artifact")),
        (("bench",), ("nothing was made here", "Name an artifact")),
        (("inspect",), ("nothing was made here", "Name an artifact")),
    ],
    ids=["export", "check", "check-baseline", "evaluate", "bench", "inspect"],
)
def test_step_without_the_one_before(cli: Cli, place: Path, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    code, _, err = cli(*arguments, "--workspace", place)
    assert_error(code, err, *says)
    assert list(place.iterdir()) == []
