"""Verdicts, and the faces of a report."""

from __future__ import annotations

from typing import Any

import pytest

from illama_deploy.measure import Interval
from illama_deploy.report import Gate, Report, Verdict, overall, print_report, render_markdown


def _gate(low: float, high: float, limit: float = 1.0) -> Gate:
    return Gate.judge("latency_ratio", "candidate.onnx", "batch 1", limit, Interval((low + high) / 2, low, high))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.9, "pass"),
        (0.5, 1.0, "pass"),
        (0.9, 1.1, "inconclusive"),
        (1.0, 1.2, "inconclusive"),
        (1.1, 1.2, "fail"),
    ],
)
def test_a_gate_judges_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert _gate(low, high).verdict == verdict


PASS, UNSURE, FAIL = _gate(0.5, 0.6), _gate(0.9, 1.1), _gate(1.2, 1.3)


@pytest.mark.parametrize(
    ("gates", "verdict", "code", "strict"),
    [
        ([PASS, PASS], Verdict.PASS, 0, 0),
        ([PASS, UNSURE], Verdict.INCONCLUSIVE, 3, 1),
        ([PASS, UNSURE, FAIL], Verdict.FAIL, 1, 1),
    ],
    ids=["pass", "inconclusive", "fail"],
)
def test_overall(gates: list[Gate], verdict: Verdict, code: int, strict: int) -> None:
    report = Report(gates, [{}], {}, {}, {})
    assert overall(gates) == report.verdict == verdict
    assert (report.exit_code(), report.exit_code(strict=True)) == (code, strict)


def _report() -> dict[str, Any]:
    def artifact(name: str, ratio: float) -> dict[str, Any]:
        latency = {"batch": 1, "p50_ms": 2.5 * ratio, "images_per_s": 400 / ratio}
        return {
            "info": {"name": name, "format": "W8A8", "backend": "onnxruntime", "provider": "CPU"}
            | {"size_bytes": 5_720_000, "sha256": "ab" * 32},
            "accuracy": {"top1": 80.5, "images": 898},
            "comparison": {"agreement": 99.25, "logit_sqnr_db": 35.0},
            "latency": [{**latency, "ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}],
        }

    drop = Gate.judge("accuracy_drop", "int8.onnx", "", 0.5, Interval(0.11, -0.1, 0.32))
    return Report(
        [drop, UNSURE],
        [artifact("float.onnx", 1.0), artifact("int8.onnx", 0.48)],
        {"spec": "digits", "split": "test", "images": 898, "skipped": ["digit 4"]},
        {"threads": 1, "confidence": 0.95},
        {"cpu": "some cpu", "versions": {"torch": "2.14"}},
    ).to_dict()


def test_markdown_shows_the_figures() -> None:
    text = render_markdown(_report())
    assert text.startswith("# ❔ INCONCLUSIVE")
    for shown in ("5.72 MB", "80.50", "99.25", "0.480 (0.470–0.490)", "0.11 points", "-0.10 to 0.32", "≤ 0.5 points"):
        assert shown in text
    for shown in ("898 images of `digits`", "1 broken images left out", "ab" * 32, "some cpu", "torch 2.14", "✅ pass"):
        assert shown in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:4]} == {7}
    assert {line.count("|") for line in tables[4:]} == {10}


def test_terminal_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(_report())
    shown = capsys.readouterr().out
    for text in ("INCONCLUSIVE", "0.480 (0.470–0.490)", "0.11 points", "80.50", "99.25"):
        assert text in shown


def test_what_was_not_measured_is_inconclusive_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate.unmeasured("latency_ratio", "int8.engine", "batch 1", 1.0, "no CUDA device")
    assert (gate.verdict, overall([PASS, gate])) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert "not_measured" not in PASS.to_dict()
    report = _report()
    info = {**report["baseline"]["info"], "name": "int8.engine"}
    missing = {"info": info, "accuracy": None, "comparison": None, "latency": [], "not_measured": "no CUDA device"}
    report["gates"].append(gate.to_dict())
    report["candidates"].append(missing)
    print_report(report)
    for text in (render_markdown(report), capsys.readouterr().out):
        assert "not measured: no CUDA device" in text
        [row] = [line for line in text.splitlines() if "int8.engine" in line and "MB" in line]
        assert "not measured" in row
