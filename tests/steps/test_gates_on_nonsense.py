"""What a comparison cannot tell: logits that are no numbers, a baseline that knows nothing. Several in one folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import illama_deploy
from illama_deploy.errors import ArtifactError, UsageError
from illama_deploy.hashing import sha256_file
from illama_deploy.measure import Accuracy, Comparison, PixelAccuracy, PixelComparison
from illama_deploy.measure.statistics import Interval
from illama_deploy.options.steps import EvaluateOptions
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.report import Gate, read_report
from illama_deploy.report.renderers import render_properties
from illama_deploy.runtime import Runtime
from illama_deploy.steps.bench import bench
from illama_deploy.steps.check import check
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import ExportResult
from illama_deploy.steps.quantize import quantize
from illama_deploy.steps.shared.participants import open_participants
from illama_deploy.targets.open import open_artifact
from illama_deploy.workspace import Workspace

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"rounds": 10, "batch": 1, "sensitivity": False, "max_drop": 100, "max_latency_ratio": 1e6}


def _changed(export: ExportResult, name: str, change: Any) -> Runtime:
    """The float file, its logits changed."""
    runtime = open_artifact(export.directory / "model.float.onnx", threads=1)
    inner = runtime.run
    runtime.info = replace(runtime.info, name=name)
    runtime.run = lambda images: change(inner(images))  # type: ignore[method-assign]
    return runtime


def _nan(logits: np.ndarray) -> np.ndarray:
    return np.full_like(logits, np.nan)


def _some_infinite(logits: np.ndarray) -> np.ndarray:
    logits = logits.copy()
    logits[:1] = np.inf
    return logits


def _permuted(logits: np.ndarray) -> np.ndarray:
    return np.roll(logits, 1, axis=1)


def _constant(logits: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[np.full(len(logits), 3)]


@pytest.mark.parametrize(
    ("baseline", "candidate", "code", "gates"),
    [
        (None, None, 0, {}),
        (None, _nan, 1, {("not_finite", "candidate"): "fail"}),
        (None, _some_infinite, 1, {("not_finite", "candidate"): "fail"}),
        (_nan, _nan, 1, {("not_finite", "baseline"): "fail", ("not_finite", "candidate"): "fail"}),
        (_permuted, _permuted, 1, {("chance", "baseline"): "fail"}),
        (_constant, _constant, 3, {("chance", "baseline"): "inconclusive"}),
        (_constant, None, 3, {("chance", "baseline"): "inconclusive"}),
    ],
    ids=["sound", "NaN", "infinite", "both NaN", "permuted", "constant", "better than its baseline"],
)
def test_nonsense_never_passes(
    digits_export: ExportResult, tmp_path: Path, baseline: Any, candidate: Any, code: int, gates: dict[Any, str]
) -> None:
    artifacts = {
        name: _changed(digits_export, name, change or (lambda logits: logits))
        for name, change in (("baseline", baseline), ("candidate", candidate))
    }
    report = check([artifacts["candidate"]], baseline=artifacts["baseline"], limit=200, out=tmp_path / "r", **QUICK)
    assert report.exit_code() == code
    content = read_report(tmp_path / "r" / "report.json")
    found = {
        (g["name"], g["artifact"]): g["verdict"] for g in content["gates"] if g["name"] in ("not_finite", "chance")
    }
    assert {pair: found[pair] for pair in gates} == gates
    for (name, artifact), _ in gates.items():
        says = "logits are NaN or infinite" if name == "not_finite" else "no better than chance"
        assert any(artifact in note and says in note for note in content["notes"])
    if not gates:
        assert not found
    for name in ("report.json", "benchmark.json", "report.csv", "report.html", "report.md", "junit.xml"):
        assert "NaN" not in (tmp_path / "r" / name).read_text().replace("NaN or infinite", "")


@pytest.mark.parametrize(("least", "code"), [(50, 0), (99.99, 1), (99, 3)])
def test_least_top1(cli: Any, digits_export: ExportResult, tmp_path: Path, least: float, code: int) -> None:
    limits = ("--max-drop", 100, "--max-latency-ratio", 1e6, "--rounds", 10, "--batch", 1, "--no-sensitivity")
    out = tmp_path / "r"
    result = cli("check", digits_export.directory, *limits, "--limit", 200, "--min-top1", least, "--out", out)
    assert result.code == code
    content = read_report(out / "report.json")
    [gate] = [gate for gate in content["gates"] if gate["name"] == "min_top1"]
    assert gate["limit"] == content["settings"]["min_top1"] == least
    assert f"≥ {least:g} %" in result.out
    assert cli("check", digits_export.directory, *limits, "--min-top1", "nan", "--out", tmp_path / "x").code == 2


def test_evaluate_says_it(cli: Any, tmp_path: Path, digits_export: ExportResult) -> None:
    result = evaluate(
        _changed(digits_export, "candidate", _nan),
        reference=_changed(digits_export, "baseline", _nan),
        limit=50,
        json=tmp_path / "e.json",
    )
    assert ["NaN or infinite" in result.notes[0], "no better than chance" in result.notes[1]] == [True, True]
    written = json.loads((tmp_path / "e.json").read_text())
    assert written["notes"] == list(result.notes)
    assert written["logit_sqnr_db"] is None
    assert result.notes[0].partition(":")[0] in render_properties(result.to_dict())
    said = cli("evaluate", digits_export.directory, "--limit", 64, "--reference", "digits")
    assert "chance" not in said.out


def test_a_network_of_nan_weights_fails(cli: Any, tmp_path: Path) -> None:
    """A diverged training, exported as it is."""
    from illama_deploy.checkpoint import read_checkpoint

    state = dict(read_checkpoint("digits").state)
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"] * 1e20
    state["blocks.0.mlp.fc3.weight"] = state["blocks.0.mlp.fc3.weight"] * 1e20
    torch.save({"model": state}, tmp_path / "diverged.pth")
    told = ("--data", "digits", "--mean", 0.3, "--std", 0.3)
    told = (*told, "--limit", 64)
    shown = cli("evaluate", tmp_path / "diverged.pth", *told)
    assert shown.code == 0
    assert "logits are NaN or infinite on" in shown.out
    checked = cli(
        *("check", tmp_path / "diverged.pth", "--baseline", tmp_path / "diverged.pth", *told, "--out", tmp_path / "r"),
        *("--max-drop", 100, "--max-latency-ratio", 1e6, "--rounds", 10, "--batch", 1, "--no-sensitivity"),
    )
    assert checked.code == 1, checked.err
    assert "Verdict: FAIL" in checked.out


# --- figures ---------------------------------------------------------------------------------------------------------


def test_chance_is_what_the_same_guesses_would_get_by_luck() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    rng = np.random.default_rng(0)
    for guesses in (np.zeros(100, int), rng.permutation(labels), labels, 1 - labels):
        accuracy = Accuracy(1)
        accuracy.update(np.eye(2)[guesses], labels)
        dealt = [100 * np.mean(rng.permutation(guesses) == labels) for _ in range(4000)]
        assert accuracy.chance == pytest.approx(np.mean(dealt), abs=0.5)
    pixels = PixelAccuracy(2, [np.array([[40, 0, 0], [60, 0, 0]])])  # one class everywhere
    assert pixels.chance == pytest.approx(pixels.to_dict()["miou"])
    assert PixelAccuracy(2, [np.array([[40, 0, 0], [0, 60, 0]])]).chance < 50


def test_no_bound_lies_where_no_figure_can() -> None:
    accuracy = Accuracy(1)
    accuracy.update(np.eye(3)[[0, 1, 2, 0]] * [[50], [50], [50], [0.1]], np.array([0, 1, 2, 0]))
    for name, (value, low, high) in accuracy.intervals(0.95).items():
        assert 0 <= low <= value <= high, name
    assert accuracy.intervals(0.95)["brier"].high <= 2
    alone = Accuracy(1)
    alone.update(np.eye(3)[[0]], np.array([0]))
    assert set(alone.intervals(0.95)) == {"top1", "top5", "ece"}
    assert np.isfinite([value for interval in alone.intervals(0.95).values() for value in interval]).all()


def test_what_has_no_signal_has_no_noise_ratio() -> None:
    nothing = Comparison()
    nothing.update(np.ones((3, 2), np.float32), np.full((3, 2), np.nan, np.float32))
    assert nothing.to_dict() == {"agreement": 0.0, "logit_sqnr_db": None}
    assert set(nothing.intervals(0.95)) == {"agreement"}
    pixels = PixelComparison()
    pixels.update(torch.full((2, 4, 4), 3e38), torch.full((2, 4, 4), -3e38))  # their difference is no float32
    assert pixels.to_dict()["logit_sqnr_db"] == pytest.approx(-6.02, abs=0.01)


def test_a_limit_from_below() -> None:
    verdicts = [str(Gate.judge("min_top1", "a", "", 80, Interval(v, v - 1, v + 1)).verdict) for v in (82, 80, 78)]
    assert verdicts == ["pass", "inconclusive", "fail"]


def test_one_image_has_properties(cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    result = cli("evaluate", "digits", "--limit", 1, "--properties", "calibration", "--json", out)
    assert result.code == 0, result.err
    assert json.loads(out.read_text())["properties"]["calibration"]["nll"][1:] == [None, None]


# --- from Python, and side by side -----------------------------------------------------------------------------------


def test_one_value_stands_for_a_list(digits_export: ExportResult, tmp_path: Path) -> None:
    path = digits_export.directory / "model.onnx"
    for one in (str(path), path):
        result = bench(one, batch=2, rounds=10)
        assert [len(result.artifacts), result.latencies[0][0].batch] == [1, 2]
    with pytest.raises(ArtifactError, match="no such artifact"):
        illama_deploy.bench("gone.onnx")
    with pytest.raises(illama_deploy.DeployError) as refused:
        evaluate("digits", data=tmp_path / "gone")
    assert "gone" in str(refused.value)
    report = check(str(digits_export.directory), targets="cpu", limit=20, out=tmp_path / "r", **QUICK)
    assert report.settings["batch"] == [1]
    with pytest.raises(UsageError, match="'vulkan'"):
        check(str(digits_export.directory), targets="vulkan", out=tmp_path / "x", **QUICK)


def test_two_quantized_directories_side_by_side(cli: Any, digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    shutil.copytree(digits_quantized.path, tmp_path / "q8")
    quantize(calib_images=32, out=tmp_path / "q4")
    limits = ("--max-drop", 100, "--max-latency-ratio", 1e6, "--rounds", 10, "--batch", 1, "--no-sensitivity")
    both = (tmp_path / "q8", tmp_path / "q4", "--target", "cpu", "--limit", 100)
    result = cli("check", *both, *limits, "--out", tmp_path / "r")
    assert result.code == 0, result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q4", "q4-onnx", "q8", "q8-onnx", "r"]
    content = read_report(tmp_path / "r" / "report.json")
    made_of = {Path(a["info"]["name"]).parent.name: a["info"]["manifest_sha256"] for a in content["artifacts"][2:]}
    assert made_of == {f"{name}-onnx": sha256_file(tmp_path / name / "manifest.json") for name in ("q8", "q4")}
    made = {path: path.read_bytes() for path in tmp_path.glob("*-onnx/*")}
    assert cli("check", *both[1:], *limits, "--out", tmp_path / "r4").code == 0
    assert {path: path.read_bytes() for path in tmp_path.glob("*-onnx/*")} == made

    # An export under the usual name is taken where it is this one's, and never replaced where it is another's.
    (tmp_path / "q8-onnx").rename(tmp_path / "onnx")
    groups = open_participants(both[:2], None, ["cpu"], Workspace(tmp_path), {"threads": 1})
    shown = [Path(group.candidates[0].artifact.info.name).parent.name for group in groups]
    assert shown == ["onnx", "q4-onnx"]
    # One that was quantized again does not go by its old export.
    shutil.rmtree(tmp_path / "q4")
    quantize(calib_images=48, out=tmp_path / "q4")
    stale = cli("check", tmp_path / "q4", "--target", "cpu", *limits, "--out", tmp_path / "r5")
    assert stale.code == 2
    assert "manifest differs" in stale.err


def test_properties_that_pixels_do_not_have_keep_to_the_schema() -> None:
    from jsonschema import Draft202012Validator

    from illama_deploy.options.groups import PROPERTIES
    from illama_deploy.report import load_schema

    from ..reports import document

    content = document()
    names = [name.replace("-", "_") for name in PROPERTIES]
    content["artifacts"][0]["properties"] = {name: {"not_measured": "it classifies pixels"} for name in names}
    assert not list(Draft202012Validator(load_schema()).iter_errors(content))
    assert EvaluateOptions().properties.properties == ()
