"""`check` over several targets, against stored reports, and what is made of its reports, on the embedded network."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from illama_deploy.checkpoint import read_checkpoint, save_checkpoint
from illama_deploy.environment import describe_environment
from illama_deploy.hashing import canonical_json
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.report import load_schema, read_report, seal
from illama_deploy.steps.export import ExportResult
from illama_deploy.steps.inspect import inspect
from illama_deploy.steps.quantize import quantize
from illama_deploy.steps.shared.participants import open_participants
from illama_deploy.steps.shared.stored import compare_with_stored
from illama_deploy.workspace import Workspace

from ..conftest import Cli
from ..reports import HALF, INTEGER, OTHER, document

#: The shortest check.
QUICK = ("--rounds", 10, "--batch", 1, "--no-sensitivity")


@pytest.fixture(scope="module")
def place(
    digits_quantized: QuantizedArtifact, digits_export: ExportResult, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace with a quantized checkpoint and its export for ONNX Runtime."""
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(digits_quantized.path, root / "quantized")
    shutil.copytree(digits_export.directory, root / "onnx")
    return root


def _read(cli: Cli, place: Path, *arguments: object, code: int | None = None) -> dict[str, Any]:
    result = cli("check", *arguments, *QUICK, "--workspace", place, "--force")
    assert result.code in ((0, 1, 3) if code is None else (code,)), result.err
    return read_report(place / "report" / "report.json")


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_targets_at_once(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is exported, one that is made for it, and one that has no kernel for this format."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    targets = ("--target", "cpu", "--target", "openvino", "--target", "cuda")
    report = _read(cli, place, *targets, "--max-drop", 50, "--max-latency-ratio", 50, code=3)
    assert (place / "openvino" / "model.onnx").is_file()
    shown = [(one["role"], one["target"], one["info"]["format"]) for one in report["artifacts"]]
    halves = [("baseline", "openvino", "bfloat16")]
    assert [row for row in shown if row not in halves] == [
        ("baseline", "onnx-cpu", "float32"),
        ("baseline", "openvino", "float32"),
        ("candidate", "onnx-cpu", "W8A8"),
        ("candidate", "openvino", "W8A8"),
        ("candidate", "onnx-cuda", "W8A8"),
    ]
    cuda = report["artifacts"][-1]
    assert "no kernel for W8A8" in cuda["not_measured"]
    verdicts = {(gate["artifact"], gate["verdict"]) for gate in report["gates"]}
    assert verdicts == {
        (str(place / "onnx" / "model.onnx"), "pass"),
        (str(place / "openvino" / "model.onnx"), "pass"),
        (cuda["info"]["name"], "inconclusive"),
    }
    for one in report["artifacts"][:-1]:
        [times] = one["latency"]
        assert Path(times["ratio_to"].removesuffix(" (bf16)")).parent == Path(one["info"]["name"].split(" (")[0]).parent
    [proof] = [one["proof"] for one in report["artifacts"] if one["info"]["name"].endswith("onnx/model.onnx")]
    assert "16 of 16 quantized GEMMs" in proof["summary"]
    [quantized] = report["quantized"]
    assert len(quantized["sites"]) == 12
    assert (tmp_path / "summary.md").read_text() == (place / "report" / "report.md").read_text()


def test_half_precision_is_a_baseline_where_the_target_has_it(cli: Cli, place: Path) -> None:
    ov = pytest.importorskip("openvino")
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    report = _read(cli, place, place / "quantized", "--target", "openvino")
    formats = [(one["role"], one["info"]["format"], one["info"]["provider"]) for one in report["artifacts"]]
    assert formats == [
        ("baseline", "float32", "CPU, f32"),
        ("baseline", "bfloat16", "CPU, bf16"),
        ("candidate", "W8A8", "CPU, bf16"),
    ]
    fastest = min(report["artifacts"][:2], key=lambda one: one["latency"][0]["p50_ms"])
    assert report["artifacts"][2]["latency"][0]["ratio_to"] == fastest["info"]["name"]
    assert any("W8A8 on openvino" in note for note in report["notes"])
    only = _read(cli, place, place / "openvino", "--precision", "f32")
    assert [one["info"]["provider"] for one in only["artifacts"]] == ["CPU, f32"] * 2


@pytest.mark.slow
def test_an_export_brings_its_own_baseline(cli: Cli, place: Path) -> None:
    report = _read(cli, place, place / "onnx")
    assert [one["info"]["name"] for one in report["artifacts"]] == [
        str(place / "onnx" / "model.float.onnx"),
        str(place / "onnx" / "model.onnx"),
    ]


@pytest.mark.slow
def test_torch_is_a_target(place: Path) -> None:
    """The float checkpoint that it was made of, against torchao's kernels; none is compiled before it runs."""
    [group] = open_participants([place / "quantized"], None, ["torch"], Workspace(place), {"threads": 1})
    assert [member.artifact.info.backend.split(" ")[0] for member in group] == ["torch", "torchao"]
    assert {member.target for member in group} == {"torch"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "vulkan"), ("'vulkan'", "openvino")),
        (("{place}/onnx", "--target", "openvino"), ("exported for onnx-cpu", "--target")),
        (("{place}/onnx/model.onnx", "--target", "cpu", "--target", "openvino"), ("quantized directory",)),
        (("--min-effect", "1.5"), ("--min-effect",)),
        (("--against", "{place}/gone.json"), ("gone.json",)),
        (("--against", "{place}/onnx/export.json"), ("no report of", "export.json")),
    ],
)
def test_wrong_choices(
    cli: Cli, place: Path, tmp_path: Path, arguments: tuple[str, ...], says: tuple[str, ...]
) -> None:
    given = [word.format(place=place) for word in arguments]
    result = cli("check", *given, *QUICK, "--workspace", place, "--out", tmp_path / "out")
    assert result.code == 2
    assert all(text in result.err for text in says), result.err
    assert not (tmp_path / "out").exists()


def test_mismatched_artifacts_are_refused(cli: Cli, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "onnx", tmp_path / "onnx")
    quantize(calib_images=16, out=tmp_path / "quantized")
    arguments = ("check", tmp_path / "quantized", "--target", "cpu", *QUICK, "--out", tmp_path / "out")
    other = cli(*arguments)
    assert other.code == 2
    assert "manifest differs" in other.err
    with (tmp_path / "onnx" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    edited = cli("check", tmp_path / "onnx", *QUICK, "--out", tmp_path / "out")
    assert edited.code == 2
    assert "its hash differs" in edited.err


# --- against a stored report -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_against_a_stored_report(cli: Cli, place: Path, tmp_path: Path) -> None:
    """Of this machine; of another one; of other images; and one that was edited."""
    _read(cli, place)
    stored = tmp_path / "stored.json"
    shutil.copy(place / "report" / "report.json", stored)

    def gates(path: Path, *arguments: object) -> dict[str, Any]:
        limits = ("--max-drop", 50, "--max-latency-ratio", 50, "--min-effect", 0.9)
        report = _read(cli, place, "--against", path, *limits, *arguments)
        assert report["stored"]["path"] == str(path)
        return {gate["name"]: gate for gate in report["gates"]}

    same = gates(stored)
    assert same["accuracy_change"]["value"] == 0
    assert same["accuracy_change"]["verdict"] == "pass"
    assert same["latency_change"]["limit"] == 1.9
    assert same["latency_change"]["low"] < same["latency_change"]["high"]

    content = json.loads(stored.read_text())
    content["environment"] |= {"fingerprint": "0123456789ab", "cpu": "another cpu"}
    stored.write_text(canonical_json(seal(content)))
    elsewhere = gates(stored)
    assert elsewhere["accuracy_change"]["verdict"] == "pass"
    assert elsewhere["latency_change"]["verdict"] == "inconclusive"
    assert "other hardware (another cpu, 0123456789ab" in elsewhere["latency_change"]["not_measured"]
    assert "other images" in gates(stored, "--limit", 100)["accuracy_change"]["not_measured"]

    stored.write_text(stored.read_text().replace("another cpu", "no cpu"))
    refused = cli("check", "--against", stored, *QUICK, "--workspace", place, "--out", tmp_path / "out")
    assert refused.code == 2
    assert "edited" in refused.err


def _compare(new: dict[str, Any], stored: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    gates = compare_with_stored(
        new["artifacts"],
        new["data"],
        new["environment"],
        stored,
        batch=[1],
        max_drop=0.5,
        min_effect=0.02,
        confidence=0.95,
    )
    return [
        (gate.artifact, str(gate.verdict), gate.not_measured) for gate in gates if gate.artifact in (INTEGER, OTHER)
    ]


def test_what_can_be_compared_with_a_stored_report() -> None:
    stored = document()
    assert [verdict for _, verdict, _ in _compare(document(), stored)] == ["inconclusive"] * 4  # too noisy to tell
    for one in stored["artifacts"]:
        for times in one["latency"]:
            times |= {"ratio_low": 0.999 * times["ratio"], "ratio_high": 1.001 * times["ratio"]}
    now = copy.deepcopy(stored)
    assert [row[1] for row in _compare(now, stored)[1::2]] == ["pass", "pass"]
    slower = now["artifacts"][3]["latency"][0]
    slower |= {key: 1.1 * slower[key] for key in ("ratio", "ratio_low", "ratio_high")}
    assert [row[1] for row in _compare(now, stored)[1::2]] == ["fail", "pass"]

    def reasons(change: Any) -> list[str | None]:
        new = copy.deepcopy(now)
        change(new)
        return [why for name, _, why in _compare(new, stored) if name == OTHER]

    def rename(new: dict[str, Any]) -> None:
        new["artifacts"][4]["target"] = "onnx-cpu"

    def rethread(new: dict[str, Any]) -> None:
        new["artifacts"][4]["latency"][0]["threads"] = 2

    def rebase(new: dict[str, Any]) -> None:
        assert new["artifacts"][2]["info"]["name"] == HALF
        new["artifacts"][2]["info"]["sha256"] = "ff" * 32

    def rebatch(new: dict[str, Any]) -> None:
        new["artifacts"][4]["latency"][0]["batch"] = 3

    assert reasons(rename) == ["the stored report has no such candidate"] * 2
    assert reasons(rethread) == [None, "it was measured on 1 threads, not 2"]
    assert "another file" in str(reasons(rebase)[1])
    assert "no such batch size" in str(reasons(rebatch)[1])


def test_fingerprint_is_of_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    here = describe_environment()
    monkeypatch.setattr("illama_deploy.environment.platform.python_version", lambda: "9.9")
    assert describe_environment()["fingerprint"] == here["fingerprint"]
    monkeypatch.setattr("illama_deploy.environment.os.cpu_count", lambda: 1000)
    assert describe_environment()["fingerprint"] != here["fingerprint"]
    assert set(load_schema()["properties"]["environment"]["required"]) == set(here)


# --- what is made of reports -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_report_command(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a" / "report.json"
    path.parent.mkdir()
    path.write_text(canonical_json(document()))
    result = cli(
        "report", path, "--format", "md,html", "--format", "junit,benchmark-json,csv", "--out", tmp_path / "out"
    )
    assert result.code == 0, result.err
    names = {"report.md", "report.html", "junit.xml", "benchmark.json", "report.csv"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert cli("report", path).code == 0
    assert {p.name for p in path.parent.iterdir()} == {"report.json", "report.md", "report.html"}

    other = tmp_path / "b" / "report.json"
    shutil.copytree(path.parent, other.parent)
    other.write_text(canonical_json(document(created="2026-11-21T08:00:00Z")))
    assert cli("report", path, other, "--format", "csv", "--out", tmp_path / "two").code == 0
    assert sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "two").rglob("*.csv")) == [
        "two/a/report.csv",
        "two/b/report.csv",
    ]
    (tmp_path / "noise.json").write_text("{}")
    history = cli("report", "--history", tmp_path, "--out", tmp_path / "trend")
    assert history.code == 0, history.err
    assert (tmp_path / "trend" / "history.md").read_text().startswith("# 2 reports")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--history DIR"),
        (("{path}", "--history", "."), "both"),
        (("{path}", "--format", "pdf"), "'pdf'"),
        (("{path}", "{path}", "--out", "{path}-out"), "same place"),
        (("{path}-gone",), "No such file"),
        (("--history", "{path}-gone"), "no report in it"),
    ],
)
def test_wrong_reports(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(canonical_json(document()))
    result = cli("report", *(word.format(path=path) for word in arguments))
    assert result.code == 2
    assert says in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.slow
def test_floating_the_most_sensitive_site_helps(cli: Cli, place: Path, tmp_path: Path) -> None:
    result = cli("inspect", place / "quantized", "--json", tmp_path / "i.json", "--html", tmp_path / "i.html")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "i.json").read_text())
    worst = min(found["sites"], key=lambda site: site["alone_db"])["name"]
    assert f"most sensitive: {worst}" in result.out
    assert sum(site["noise_share"] for site in found["sites"]) == pytest.approx(1)
    assert sum(site["bytes"] for site in found["sites"]) <= (place / "quantized" / "model.safetensors").stat().st_size
    assert worst in (tmp_path / "i.html").read_text()
    before = quantize(calib_images=128, out=tmp_path / "before").manifest["logit_sqnr_db"]
    after = quantize(calib_images=128, exclude=[worst], out=tmp_path / "after").manifest["logit_sqnr_db"]
    assert after > before + 0.5


def test_shares_of_latency_add_up(place: Path) -> None:
    layers = inspect(place / "onnx").figures["layers"]
    shares = [layer["time_share"] for layer in layers if layer["time_share"] is not None]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > len(layers) / 2
    assert {layer["site"] for layer in layers if layer["precision"] == "int8"} >= {"head", "blocks.0.attn.qkv"}


def test_inspect_says_why_sensitivity_is_missing(tmp_path: Path) -> None:
    digits = read_checkpoint("digits")
    save_checkpoint(tmp_path / "c.safetensors", digits.state, digits.config, digits.preprocessing)
    directory = quantize(tmp_path / "c.safetensors", data="digits", calib_images=16, out=tmp_path / "q").path
    (tmp_path / "c.safetensors").unlink()
    assert "sensitivity was not measured: The float checkpoint cannot be read: There" in inspect(directory).summary
    assert "not asked for" in inspect(directory, images=0).summary
