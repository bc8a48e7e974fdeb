"""Errors name options as who reads them gives them: as code in Python, as flags on the command line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import illama_deploy
from illama_deploy import DeployError
from illama_deploy.command_line import AsFlags
from illama_deploy.errors import parameter, parameters_as, spelling
from illama_deploy.options.steps import (
    BenchOptions,
    CheckOptions,
    EvaluateOptions,
    ExportLine,
    InspectOptions,
    QuantizeOptions,
    TrainOptions,
)
from illama_deploy.steps.inspect import inspect
from illama_deploy.steps.report import report

from .conftest import Cli

#: A command, the same in Python, and what each of them reads.
SAME = {
    "a name": (
        ("train", "--recipe", "digits", "--frozen", "--data", "digits"),
        lambda: illama_deploy.train("digits", frozen=True, data="digits"),
        ("with --checkpoint.", "with `checkpoint`."),
    ),
    "a value": (
        ("bench", "digits", "--confidence", "2"),
        lambda: illama_deploy.bench("digits", confidence=2),
        ("Use --confidence 0.95.", "Use `confidence=0.95`."),
    ),
    "a flag that is called otherwise": (
        ("evaluate", "digits", "--batch", "0", "--data", "digits"),
        lambda: illama_deploy.evaluate("digits", batch_size=0, data="digits"),
        ("Raise --batch.", "Raise `batch_size`."),
    ),
    "one of several": (
        ("quantize", "digits", "--candidate", "W4A8"),
        lambda: illama_deploy.quantize("digits", candidates=["W4A8"]),
        (
            "Add --max-drop 0.5 or --max-size 3MB, or leave --candidate and --held-out-* out.",
            "Add `max_drop=0.5` or `max_size='3MB'`, or leave `candidates` and `held_out_*` out.",
        ),
    ),
    "a pair": (
        ("export", "digits", "--onnx", "--float-only", "--no-float"),
        lambda: illama_deploy.export("digits", float_only=True, float=False),
        ("Both --float-only and --no-float are given.", "Both `float_only` and `float=False` are given."),
    ),
    "two values": (
        ("export", "digits", "--trt", "--min-batch", "9", "--opt-batch", "2"),
        lambda: illama_deploy.export("digits", target="tensorrt", min_batch=9, opt_batch=2),
        ("Use --min-batch 1 --opt-batch 8 --max-batch 32, say.", "Use `min_batch=1, opt_batch=8, max_batch=32`, say."),
    ),
    "a range": (
        ("evaluate", "digits", "--limit", "0"),
        lambda: illama_deploy.evaluate("digits", limit=0),
        ("--limit is at least 1 images", "`limit` is at least 1 images"),
    ),
    "an option's own reader": (
        ("quantize", "digits", "--mean", "a,b"),
        lambda: illama_deploy.quantize("digits", mean="a,b"),
        ("--mean needs numbers", "`mean` needs numbers"),
    ),
    "a property": (
        ("evaluate", "digits", "--severity", "2"),
        lambda: illama_deploy.evaluate("digits", severities=[2]),
        ("--severity belongs to the property corruptions.", "`severities` belongs to the property corruptions."),
    ),
    "a task's option": (
        ("evaluate", "digits", "--flip", "--data", "digits"),
        lambda: illama_deploy.evaluate("digits", flip=True, data="digits"),
        ("--stride, --scales or --flip is for", "`stride`, `scales` or `flip` is for"),
    ),
    "no argument": (
        ("report",),
        report,
        ("Neither files nor --history are given", "Neither files nor `history` are given"),
    ),
    "a number": (
        ("inspect", "digits", "--images", "-1"),
        lambda: inspect("digits", images=-1),
        ("Use --images 0 for", "Use `images=0` for"),
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_the_same_error_from_both(cli: Cli, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed, called, (flags, code) = SAME[what]
    result = cli(*typed)
    assert (result.code, flags in result.err, "`" in result.err) == (2, True, False), result.err
    with pytest.raises(DeployError) as raised:  # after a command, too
        called()
    assert code in str(raised.value)
    assert "--" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "names", "values", "says"),
    [
        (EvaluateOptions, ("batch_size",), {}, "--batch"),
        (TrainOptions, ("batch_size",), {}, "--batch-size"),
        (CheckOptions, ("backend", "targets"), {}, "--target"),
        (BenchOptions, ("backend", "targets"), {}, "--target"),
        (ExportLine, ("target",), {}, "--target"),
        (CheckOptions, (), {"targets": ["onnx-cpu", "openvino"]}, "--target onnx-cpu --target openvino"),
        (CheckOptions, (), {"sensitivity": False}, "--no-sensitivity"),
        (ExportLine, (), {"float": False}, "--no-float"),
        (QuantizeOptions, (), {"attention_products": True}, "--attention-products"),
        (QuantizeOptions, (), {"data": "folder:my images"}, "--data 'folder:my images'"),
        # Options of other commands.
        (EvaluateOptions, ("exclude",), {}, "--exclude"),
        (TrainOptions, ("compute_capabilities",), {}, "--compute-capability"),
        (InspectOptions, ("float",), {"float": False}, "--no-float"),
    ],
)
def test_flags(options: type, names: tuple[str, ...], values: dict[str, object], says: str) -> None:
    with parameters_as(AsFlags(options)):
        assert parameter(*names, **values) == says


def test_code() -> None:
    assert parameter("backend", "targets") == "`backend` or `targets`"
    assert parameter(resume=True, force=True) == "`resume=True, force=True`"


def test_flags_end_with_the_command() -> None:
    with pytest.raises(RuntimeError), parameters_as(AsFlags(TrainOptions)):
        raise RuntimeError
    assert parameter("lr") == "`lr`"


def test_a_worker_is_told() -> None:
    """Where worker processes are not forked, it reaches them as bytes."""
    with parameters_as(AsFlags(TrainOptions)):
        told = pickle.loads(pickle.dumps(spelling()))
    assert told(("micro_batch",), {}) == "--micro-batch"
    assert pickle.loads(pickle.dumps(spelling())) is spelling()
