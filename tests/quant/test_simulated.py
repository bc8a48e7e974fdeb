"""Formats that no target has a kernel for: said before the work, gated on accuracy alone, no word about their speed."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

import illama_deploy
from illama_deploy import DataError
from illama_deploy.formats import FORMATS, Format, IntType
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.report import pay_notes, read_report
from illama_deploy.report.rows import artifact_rows
from illama_deploy.steps.export import export
from illama_deploy.steps.quantize import quantize
from illama_deploy.steps.shared.kernels import kernel_lines, kernels_of
from illama_deploy.targets import TARGETS
from illama_deploy.workspace import Workspace

from ..conftest import Cli
from ..reports import document

QUICK = ("--rounds", 10, "--batch", 1, "--limit", 200, "--no-sensitivity")


@pytest.fixture(scope="module")
def w4a4(tmp_path_factory: pytest.TempPathFactory) -> QuantizedArtifact:
    return quantize(format="W4A4", calib_images=32, out=tmp_path_factory.mktemp("w4a4") / "quantized")


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A workspace after `quantize --bits 4`, and one after `qat --bits 4`."""
    places = {step: tmp_path_factory.mktemp(step) for step in ("quantize", "qat")}
    quantize(bits=4, workspace=Workspace(places["quantize"]))
    recipe = places["qat"] / "short.toml"
    recipe.write_text('data = "digits"\nepochs = 1\nbatch_size = 256\nlr = 1e-4\nwarmup_epochs = 0\nflip = 0.0\n')
    illama_deploy.qat(bits=4, recipe=recipe, calib_images=256, workspace=Workspace(places["qat"]))
    return places


def test_what_runs_a_format_is_said_before_the_work(cli: Cli, tmp_path: Path) -> None:
    """Also where the work then fails."""
    for format_, says in {"W4A4": "W4A4 is simulated: no target", "W4A8": "W4A8 runs in ONNX Runtime on CPUs"}.items():
        result = cli("quantize", "--format", format_, "--data", "folder:nowhere", "--out", tmp_path / "q")
        assert result.code == 2
        assert result.out.splitlines()[1].startswith(says), result.out  # behind which network is taken
    assert "TensorRT: INT4 weight-only with float16 activations" in result.out


@pytest.mark.slow
def test_qat_says_it_too(w4a4: QuantizedArtifact, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(DataError):
        illama_deploy.qat(w4a4.path, data="folder:nowhere", out=tmp_path / "qat", say=lines.append)
    assert lines[0].startswith("W4A4 is simulated")


def test_the_manifest_says_what_runs_it(w4a4: QuantizedArtifact) -> None:
    kernels = w4a4.manifest["kernels"]
    assert kernels["W4A4"] == {}
    assert set(kernels["W8A8"]) == {name for name, target in TARGETS.items() if target.runs("W8A8")}
    assert {"onnx-cpu", "openvino", "tensorrt"} <= set(kernels["W8A8"])


def test_every_format_has_its_line() -> None:
    for format_ in FORMATS.values():
        [line] = kernel_lines([format_])
        assert ("is simulated" in line) == (kernels_of([format_]) == {format_.base: {}}), line
    assert "torchao" in kernel_lines([FORMATS["W2A16"]])[0]
    assert "torchao" not in kernel_lines([Format(IntType(3), IntType(3))])[0]


@pytest.mark.slow
def test_no_speed_gate_and_no_word_about_speed(cli: Cli, w4a4: QuantizedArtifact, tmp_path: Path) -> None:
    exported = export(w4a4.path, simulate=True, out=tmp_path / "onnx")
    first = cli("check", exported.directory, *QUICK, "--max-drop", 90, "--out", tmp_path / "report")
    assert first.code == 0, first.err
    report = read_report(tmp_path / "report" / "report.json")
    assert [gate["name"] for gate in report["gates"]] == ["accuracy_drop"]
    [candidate] = [one for one in report["artifacts"] if one["role"] == "candidate"]
    assert candidate["info"]["format"] == "W4A4 (simulated)"
    assert candidate["latency"] == []
    assert any("was not timed: it is simulated" in note for note in report["notes"])
    assert not any("pay" in note for note in report["notes"])
    assert "pay" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    again = cli("check", exported.directory, *QUICK, "--max-drop", 90, "--against",
                tmp_path / "report" / "report.json", "--out", tmp_path / "again")  # fmt: skip
    assert again.code == 0, again.err
    gates = read_report(tmp_path / "again" / "report.json")["gates"]
    assert [gate["name"] for gate in gates] == ["accuracy_drop", "accuracy_change"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["--onnx", "--openvino", "--trt"])
@pytest.mark.parametrize("step", ["quantize", "qat"])
def test_bits_4_leads_to_every_target(
    cli: Cli, four_bits: dict[str, Path], tmp_path: Path, step: str, target: str
) -> None:
    """Nothing is named but the target; speed alone is left open, for a busy machine has none."""
    pytest.importorskip({"--onnx": "onnxruntime", "--openvino": "openvino", "--trt": "tensorrt_rtx"}[target])
    place = Path(shutil.copytree(four_bits[step], tmp_path / "place"))
    exported = cli("export", target, "--workspace", place)
    assert exported.code == 0, exported.err
    checked = cli("check", *QUICK[:4], "--no-sensitivity", "--max-latency-ratio", 1000, "--workspace", place)
    assert checked.code in (0, 3), checked.err
    report = read_report(place / "report" / "report.json")
    [candidate] = [one for one in report["artifacts"] if one["role"] == "candidate"]
    assert candidate["info"]["format"].startswith("W4A8")
    if target == "--trt":
        assert "W4A8 checkpoint, in TensorRT INT4 weight-only with float16 activations" in exported.out
        assert candidate["info"]["format"] == "W4A8 as INT4 weight-only with float16 activations"


@pytest.mark.slow
def test_integers_in_torch_are_not_timed_either(cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    result = cli(
        "check", digits_quantized.path, "--baseline", "digits", *QUICK, "--max-drop", 90, "--out", tmp_path / "r"
    )
    assert result.code == 0, result.err
    assert [gate["name"] for gate in read_report(tmp_path / "r" / "report.json")["gates"]] == ["accuracy_drop"]


def test_a_row_without_times() -> None:
    report = copy.deepcopy(document())
    candidate = next(one for one in report["artifacts"] if one["role"] == "candidate")
    timed = len([row for row in artifact_rows(report) if row[0] == candidate["info"]["name"]])
    assert timed == 1
    candidate |= {"latency": [], "not_timed": "it is simulated"}
    [row] = [row for row in artifact_rows(report) if row[0] == candidate["info"]["name"]]
    assert "not timed" in row
    assert len(row) == len(artifact_rows(report)[0])
    assert f"{candidate['info']['name']} was not timed: it is simulated." in pay_notes(report["artifacts"], 0.02)
