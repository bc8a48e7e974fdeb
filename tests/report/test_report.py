"""Verdicts, the document and its renderers: one source, the same figures everywhere."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import junitparser
import pytest
import xmlschema
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt

from illama_deploy.errors import ArtifactError
from illama_deploy.hashing import canonical_json
from illama_deploy.measure import Interval
from illama_deploy.report import (
    GATES,
    RENDERERS,
    Gate,
    Report,
    Verdict,
    append_summary,
    finite_notes,
    load_schema,
    overall,
    pay_notes,
    print_report,
    read_report,
    render_history,
    render_html,
    render_markdown,
    seal,
    steadiness_notes,
)
from illama_deploy.report.charts import Point, _Scale, pareto, reliability
from illama_deploy.report.publish import PUBLISHED, schema, schema_text
from illama_deploy.report.rows import artifact_rows, gate_rows
from illama_deploy.tasks import TASKS

from ..reports import ENGINE, FLOAT, HALF, INTEGER, OTHER, artifact, document, latency

DATA = Path(__file__).parent


def _gate(low: float, high: float, limit: float = 1.0) -> Gate:
    return Gate.judge("latency_ratio", "candidate.onnx", "batch 1", limit, Interval((low + high) / 2, low, high))


# --- verdicts --------------------------------------------------------------------------------------------------------


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
    report = Report(gates, [{}], [], {}, {}, {}, {})
    assert overall(gates) == report.verdict == verdict
    assert (report.exit_code(), report.exit_code(strict=True)) == (code, strict)


def test_what_was_not_measured_is_inconclusive() -> None:
    gate = Gate.unmeasured("latency_ratio", "int8.engine", "batch 1", 1.0, "no CUDA device")
    assert (gate.verdict, overall([PASS, gate])) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert "not_measured" not in PASS.to_dict()


# --- the document ----------------------------------------------------------------------------------------------------


def _written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(canonical_json(content), encoding="utf-8")
    return path


def test_schema_is_what_the_tasks_say() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == f"{schema_text(schema())}\n", (
        "run python -m illama_deploy.report.publish"
    )


def test_document_keeps_to_its_schema(tmp_path: Path) -> None:
    Draft202012Validator.check_schema(load_schema())
    content = document()
    assert list(Draft202012Validator(load_schema()).iter_errors(content)) == []
    assert read_report(_written(tmp_path / "report.json", content)) == content
    assert set(load_schema()["$defs"]["gate"]["properties"]["name"]["enum"]) == set(GATES)


def _without(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def _with(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("gates"), "'gates' is a required property"),
        (_without("artifacts", 0, "accuracy", "intervals"), "artifacts[0]"),
        (_with("good", "verdict"), "'good' is not one of"),
        (_with(101.0, "artifacts", 0, "accuracy", "top1"), "artifacts[0]"),
        (_with(None, "gates", 0, "value"), "gates[0].value"),
        (_with("pass", "gates", 4, "verdict"), "gates[4].verdict"),  # what was not measured can't pass
        (_with([], "artifacts"), "artifacts"),
        (_with(3, "surplus"), "'surplus' was unexpected"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    content = copy.deepcopy(document())
    change(content)
    with pytest.raises(ArtifactError, match="schema") as refused:
        read_report(_written(tmp_path / "report.json", seal(content)))
    assert says in refused.value.what


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: "", "cut short"),
        (lambda text: text.replace('"verdict": "fail"', '"verdict": "pass"', 1), "edited"),
        (lambda text: text.replace("80.96", "80.97", 1), "edited"),
        (lambda text: text.replace("report/2", "report/1"), "an older schema, illama-deploy/report/1"),
        (lambda text: text.replace("report/2", "report/3"), "another schema, illama-deploy/report/3"),
        (lambda text: "[1, 2]", "no report of"),
        (lambda text: '{"schema": "illama-deploy/export/1"}', "no report of"),
    ],
    ids=["cut", "empty", "verdict", "figure", "older", "newer", "list", "export"],
)
def test_spoilt_files_get_a_clear_answer(tmp_path: Path, spoil: Callable[[str], str], says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(spoil(canonical_json(document())), encoding="utf-8")
    with pytest.raises(ArtifactError) as refused:
        read_report(path)
    assert says in refused.value.what
    assert refused.value.where == path
    assert refused.value.hint


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        read_report(tmp_path / "gone.json")


# --- renderers -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tables, links and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attributes if key in ("src", "href", "srcset", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data


def test_html_shows_the_figures_of_the_json() -> None:
    content = document()
    page = Page(render_html(content))
    assert [tuple(row) for row in page.tables[0][1:]] == artifact_rows(content)
    for row in gate_rows(content):
        for cell in row:
            assert cell in page.text or cell == "–"
    for shown in ("Fail", "7 gates", *content["notes"], "some cpu", "Most sensitive: head", "sha256 " + "ef" * 32):
        assert shown in page.text


def test_markdown_shows_the_figures_of_the_json() -> None:
    """As a renderer of GitHub's dialect sees it."""
    content = document()
    text = render_markdown(content)
    assert text.startswith("# ❌ FAIL\n")
    assert len(text.encode()) < 64 * 1024
    page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    marks = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}
    assert [tuple(row) for row in page.tables[0][1:]] == [(*row[:-1], marks[row[-1]]) for row in gate_rows(content)]
    assert [tuple(row) for row in page.tables[1][1:]] == artifact_rows(content)
    assert page.tags.count("details") == page.tags.count("summary") == 9
    for shown in (
        "500 images of digits",
        "1 broken images left out",
        f"{21_480_000:064x}",
        "some cpu",
        "torch 2.14",
    ):
        assert shown in page.text
    for note in content["notes"]:
        assert note in page.text


def test_terminal_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(document())
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for text in (
        "FAIL",
        "0.478 (0.464–0.488)",
        "-0.12 points",
        "80.96",
        "99.32",
        "does not pay: it is slower",
        "x[trt]",
    ):
        assert text in shown


def test_pages_show_properties() -> None:
    content = document()
    html, markdown = RENDERERS["html"].render(content), RENDERERS["md"].render(content)
    for text in (
        "1.2345 (1024 images of train)",
        "39.0 (29.0–49.0)",
        "41.20 of 65",
        "gaussian_noise",
        "70.0 66.0 61.0",
    ):
        assert text.partition(" (")[0] in html, text
        assert text in markdown, text
    assert html.count("Rank of attention maps") == 1
    bare = document()
    for one in bare["artifacts"]:
        one.pop("properties", None)
        if one["accuracy"] is not None:
            del one["accuracy"]["brier"]  # as an older report has it
    html = RENDERERS["html"].render(bare)
    assert "Rank of attention maps" not in html
    assert "Shape or texture" not in html
    RENDERERS["md"].render(bare)


def test_reliability_bars_stand_between_their_edges() -> None:
    bins = [[10, 3, 0.3], [10, 9, 0.9]]
    equal, uneven = reliability(bins, 0, "a"), reliability(bins, 0, "a", [0.0, 0.8, 1.0])
    widths = [[float(w) for w in re.findall(r'class="count".*?width="([\d.]+)"', svg)] for svg in (equal, uneven)]
    assert widths[0][0] == pytest.approx(widths[0][1], abs=0.2)
    assert widths[1][0] == pytest.approx(4 * widths[1][1], rel=0.2)


def test_csv_holds_the_json_in_full() -> None:
    content = document()
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"].render(content))))
    assert [row["artifact"] for row in rows] == [one["info"]["name"] for one in content["artifacts"]]
    for row, one in zip(rows, content["artifacts"], strict=True):
        if one["accuracy"] is None:
            assert (row["top1"], row["p50_ms"], row["not_measured"]) == ("", "", one["not_measured"])
            continue
        [times] = one["latency"]
        assert [float(row[key]) for key in ("top1", "ece", "nll", "brier")] == [
            one["accuracy"][k] for k in ("top1", "ece", "nll", "brier")
        ]
        assert float(row["top1_drop"]) == one["comparison"]["top1_drop"]
        assert [float(row["top1_drop_low"]), float(row["top1_drop_high"])] == one["comparison"]["intervals"][
            "top1_drop"
        ]
        for key in ("p50_ms", "ratio", "ratio_low", "ratio_high", "images_per_s", "cv"):
            assert float(row[key]) == times[key]
        assert row["p99_ms"] == ""
        assert row["ratio_to"] == times["ratio_to"]


def test_benchmark_json_is_what_the_action_takes() -> None:
    content = document()
    entries = json.loads(RENDERERS["benchmark-json"].render(content))
    for entry in entries:
        assert {"name", "unit", "value"} <= set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], float | int)
    values = {entry["name"]: entry["value"] for entry in entries}
    assert len(values) == len(entries)
    for one in content["artifacts"]:
        name = one["info"]["name"]
        for times in one["latency"]:
            assert values[f"{name}: batch 1, p50"] == times["p50_ms"]
            if one["role"] == "candidate":
                assert values[f"{name}: batch 1, ratio to {times['ratio_to']}"] == times["ratio"]
                assert values[f"{name}: top-1 drop"] == one["comparison"]["top1_drop"]
    assert not any(name.startswith(ENGINE) for name in values)


def test_junit_has_a_case_for_each_gate(tmp_path: Path) -> None:
    content = document()
    path = tmp_path / "junit.xml"
    path.write_text(RENDERERS["junit"].render(content), encoding="utf-8")
    xmlschema.XMLSchema(DATA / "junit.xsd").validate(path)
    suites = list(junitparser.JUnitXml.fromfile(str(path)))
    assert [suite.name for suite in suites] == [INTEGER, OTHER, ENGINE]
    cases = [case for suite in suites for case in suite]
    assert len(cases) == len(content["gates"])
    kinds = {"pass": None, "fail": junitparser.Failure, "inconclusive": junitparser.Error}
    rows = {(row[1], row[0]): row for row in gate_rows(content)}
    for case in cases:
        _, _, measured, interval, limit, verdict = rows[case.classname, case.name]
        found = case.result[0] if case.result else None
        assert (None if found is None else type(found)) == kinds[verdict]
        assert found is None or all(text in found.message for text in (measured, interval, limit))
    for suite, element in zip(suites, ET.parse(path).getroot(), strict=True):
        verdicts = [rows[case.classname, case.name][-1] for case in suite]
        assert (suite.failures, suite.errors) == (verdicts.count("fail"), verdicts.count("inconclusive"))
        said = element.findtext("system-out") or ""
        assert all(rows[case.classname, case.name][2] in said for case in suite)


HOSTILE = "a|b <script>alert(1)</script> & `c` \x07\n\ud800"


def test_names_are_only_names(tmp_path: Path) -> None:
    content = document()
    for one in (content["artifacts"][3]["info"], *content["gates"][:2]):
        one["name" if "sha256" in one else "artifact"] = HOSTILE
    html = Page(render_html(content))
    assert "script" not in html.tags
    assert html.text.count("<script>") >= 3
    markdown = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(render_markdown(content)))
    assert "script" not in markdown.tags
    assert {len(row) for row in markdown.tables[0]} == {6}
    path = tmp_path / "junit.xml"
    path.write_text(RENDERERS["junit"].render(content), encoding="utf-8")
    xmlschema.XMLSchema(DATA / "junit.xsd").validate(path)


def test_page_fetches_nothing() -> None:
    for text in (render_html(document()), *render_history([document()]).values()):
        page = Page(text)
        assert set(page.links) <= {"data:,"}
        assert not {"script", "iframe", "img", "object"} & set(page.tags)
        assert "url(" not in text
        assert "@import" not in text


def test_every_face_takes_a_report_of_nothing() -> None:
    """Where nothing at all could run here."""
    content = document()
    nothing = [one for one in content["artifacts"] if one["accuracy"] is None]
    gates = [Gate.unmeasured("accuracy_drop", ENGINE, "", 0.5, "no GPU")]
    data = {"spec": None, "split": None, "images": 0, "skipped": [], "sha256": None}
    empty = document(artifacts=nothing, gates=gates, data=data, quantized=[], notes=[], command=None)
    assert list(Draft202012Validator(load_schema()).iter_errors(empty)) == []
    for renderer in RENDERERS.values():
        assert renderer.render(empty)
    assert "no GPU" in render_html(empty)


# --- words, summary, history, charts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (0.5, "pays in speed"),
        (0.97, "may or may not pay"),
        (1.02, "does not pay: it is no faster"),
        (1.2, "does not pay: it is slower"),
    ],
)
def test_words_say_whether_it_pays(ratio: float, says: str) -> None:
    base = artifact("baseline", "openvino", HALF, "bfloat16", 80, 0, [latency(1, 3, 1, HALF)], 200)
    other = artifact("candidate", "openvino", OTHER, "W8A8", 80, 0, [latency(1, 3 * ratio, ratio, HALF)], 50)
    speed, size = pay_notes([base, other], 0.02)
    assert says in speed
    assert "of the time of bfloat16 at batch 1" in speed
    assert "25 %" in size


def test_words_say_what_was_disturbed() -> None:
    one = artifact("candidate", "onnx-cpu", INTEGER, "W8A8", 80, 0, [latency(1, 3, 1, FLOAT)], 50)
    assert steadiness_notes([one]) == []
    one["accuracy"]["not_finite"] = 7
    one["latency"][0] |= {"drift": 1.3, "cv": 0.4}
    [nan] = finite_notes([one], TASKS["classification"])
    pace, varied = steadiness_notes([one])
    assert "NaN or infinite on 7 of 500" in nan
    assert "1 of 1 timings" in pace
    assert "30 % slower" in pace
    assert "40 %" in varied


def test_summary_is_appended_and_never_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    content = document()
    assert append_summary(content) is None
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    assert append_summary(content) == path
    assert path.read_text() == "before\n" + render_markdown(content)
    path.write_text("x" * (1024 * 1024 - 4000))
    append_summary(content)
    assert "<details>" not in path.read_text()
    assert "# ❌ FAIL" in path.read_text()
    path.write_text("x" * (1024 * 1024 - 10))
    assert append_summary(content) is None
    assert path.stat().st_size < 1024 * 1024
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "folder"))
    assert append_summary(content) is None


def test_history_is_in_order_and_by_machine() -> None:
    reports = [document(created=f"2026-11-{day}T08:00:00Z") for day in (12, 10, 11)]
    reports[0]["environment"] = {**reports[0]["environment"], "fingerprint": "ba9876543210"}
    files = render_history(reports)
    assert set(files) == {"history.html", "history.md"}
    page = Page(files["history.html"])
    days = [row[0][8:10] for row in page.tables[0][1:]]
    assert days == ["10"] * 3 + ["11"] * 3 + ["12"] * 3
    assert "machine 0123456789ab" in page.text
    assert "machine ba9876543210" in page.text
    assert files["history.md"].count("❌ fail") == 9


def test_pareto_front() -> None:
    def point(x: float, y: float) -> Point:
        return Point("", 0, x, y, y, y, False)

    points = [point(*xy) for xy in ((3, 80), (1, 70), (2, 80), (4, 79), (5, 81))]
    assert [(p.x, p.y) for p in pareto(points)] == [(1, 70), (2, 80), (5, 81)]


@pytest.mark.parametrize("values", [(0, 1), (80.2, 81.3), (3.0, 3.0), (0.0, 0.0), (-0.3, 1200.0), (1e-6, 2e-6)])
def test_ticks_are_round_and_inside(values: tuple[float, float]) -> None:
    scale = _Scale(values, 0, 100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert all(0 <= scale(value) <= 100 for value in values)
