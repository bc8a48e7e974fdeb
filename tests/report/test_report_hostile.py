"""Reports that somebody else wrote, with a seal that holds: refused in words, or rendered as nothing but text."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from illama_deploy.console import one_line
from illama_deploy.data import read_categories
from illama_deploy.errors import ArtifactError, DataError
from illama_deploy.measure import pack_confusions, unpack_confusions
from illama_deploy.report import RENDERERS, print_report, read_report, render_history
from illama_deploy.report.renderers.markdown import code, escape
from illama_deploy.sealed import seal
from illama_deploy.steps.shared.stored import compare_with_stored

from ..conftest import Cli
from ..reports import document

pytestmark = pytest.mark.slow

HOSTILE = (
    "=1+1 ![i](https://e.example/i) [l](javascript:x) <img src=x onerror=alert(1)> @octocat #1 GH-1 www.e.example "
    "http://e.example `c` ``d`` | *b* _i_ ~~s~~ $x$ \x1b[2J\x07\r\n# head\n- item\u202e\u2028&lt;b&gt; a@b.example"
)


def _every_text(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """The same document with every free text changed: what the schema gives a form keeps it."""
    if isinstance(value, dict):
        return {name: _every_text(one, change, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_every_text(one, change, key) for one in value]
    fixed = ("schema", "created", "verdict", "role", "fingerprint", "sha256", "content_sha256", "manifest_sha256")
    if not isinstance(value, str) or key in (*fixed, "correct", "binning", "uri", "task"):
        return value
    return change(value)


def _hostile() -> dict[str, Any]:
    content = document(stored=dict.fromkeys(("path", "created", "fingerprint"), "x") | {"content_sha256": "0" * 64})
    gates = [gate["name"] for gate in content["gates"]]
    # Names stay different, since gates and ratios refer to them.
    content = _every_text(content, lambda text: f"{HOSTILE} {text}")
    for gate, name in zip(content["gates"], gates, strict=True):
        gate["name"] = name
    content["environment"]["versions"] = {HOSTILE: HOSTILE}
    return seal(content)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As it was read: it keeps to its schema."""
    path = tmp_path_factory.mktemp("hostile") / "report.json"
    path.write_text(json.dumps(_hostile()))
    return read_report(path)


def _tokens(tokens: list[Any]) -> Iterator[Any]:
    for token in tokens:
        yield token
        yield from _tokens(token.children or [])


#: What GitHub's filters look for in the text of a finished page, outside of code.
FOUND_LATER = re.compile(r"(?<!\w)@\w|(?<!\w)#\d|\bGH-\d|https?://\S|\bwww\.\w")


def test_markdown_is_text(hostile: dict[str, Any]) -> None:
    plain = document(stored=dict.fromkeys(("path", "created", "fingerprint"), "x") | {"content_sha256": "0" * 64})
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for render in (RENDERERS["md"].render, lambda content: render_history([content], [("a|b", "c")])["history.md"]):
        text, expected = render(hostile), render(plain)
        kinds = [token.type for token in _tokens(markdown.parse(text)) if token.type != "code_inline"]
        wanted = [token.type for token in _tokens(markdown.parse(expected)) if token.type != "code_inline"]
        assert set(kinds) <= set(wanted) | {"text_special", "softbreak"}
        for kind in ("heading_open", "list_item_open", "td_open", "th_open", "html_block", "link_open", "image"):
            assert kinds.count(kind) == wanted.count(kind) + 0, kind
        assert "link_open" not in kinds
        for token in _tokens(markdown.parse(text)):
            if token.type in ("html_block", "html_inline"):
                assert set(re.findall(r"</?(\w+)", token.content)) <= {"details", "summary"}
        page = unescape(re.sub(r"<code>.*?</code>", "", markdown.render(text), flags=re.DOTALL))
        assert not FOUND_LATER.search(page.replace("http://e", "").replace("https://e", "").replace("www.e", ""))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)


@pytest.mark.parametrize(
    "text", ["-0.12 points", "illama-out/onnx/model.onnx", "blocks.0.attn_q", "1.5 (0.1–0.3)", "≤ 0.5×"]
)
def test_markdown_leaves_what_is_harmless(text: str) -> None:
    assert escape(text) == text
    assert code(text) == f"`{text}`"


@pytest.mark.parametrize(
    "text", ["`", "``a`", "a`b", " ", "", "[x](y)", "<b>", "- a", "1. a", "# a", "---", "\\", "a_ _b"]
)
def test_markdown_of_one_text(text: str) -> None:
    markdown = MarkdownIt("commonmark", {"html": True})
    for line in (escape(text), f"- {escape(text)}"):
        tokens = [token for token in _tokens(markdown.parse(line)) if token.type == "text"]
        assert "".join(token.content for token in tokens) == text.strip()
    [shown] = [t for t in _tokens(markdown.parse(f"x {code(text)}")) if t.type == "code_inline"]
    assert shown.content.strip() == one_line(text).strip()


class _Tags(HTMLParser):
    """Tags of a page, and names of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        # The page itself makes letters bold where it names artifacts.
        self.tags |= {tag} if tag != "b" or attributes else set()
        self.attributes |= {name for name, _ in attributes}


def test_html_is_text(hostile: dict[str, Any]) -> None:
    for text in (RENDERERS["html"].render(hostile), render_history([hostile], [(HOSTILE, HOSTILE)])["history.html"]):
        assert "<img src=x" not in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)
        page = _Tags(text)
        assert not page.tags & {"script", "iframe", "object", "a", "b"}
        assert not [name for name in page.attributes if name.startswith("on")]


def test_csv_holds_no_formula(hostile: dict[str, Any]) -> None:
    rows = list(csv.reader(io.StringIO(RENDERERS["csv"].render(hostile))))
    assert len({len(row) for row in rows}) == 1
    numbers = re.compile(r"-?[\d.]+(e[+-]?\d+)?$")
    for row in rows[1:]:
        for cell in row:
            assert numbers.match(cell) or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert any(cell.startswith("'=1+1") for cell in rows[1])


def test_other_faces_are_text(hostile: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    import xml.etree.ElementTree as ET

    root = ET.fromstring(RENDERERS["junit"].render(hostile))
    assert len(root) == len({gate["artifact"] for gate in hostile["gates"]})
    for entry in json.loads(RENDERERS["benchmark-json"].render(hostile)):
        assert "\x1b" not in json.dumps(entry, ensure_ascii=False)
    print_report(hostile)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown


# --- refused ---------------------------------------------------------------------------------------------------------


def _set(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set(10**30, "artifacts", 0, "info", "size_bytes"), "too large"),
        (_set(1e300, "artifacts", 0, "latency", 0, "p50_ms"), "the figure 1e+300"),
        (_set([], "artifacts", 0, "properties", "attention_rank", "masks"), "schema"),
        (_set([1.0], "artifacts", 0, "properties", "corruptions", "top1", "fog"), "other corruptions than severities"),
        (_set([0.0, 1.0], "artifacts", 0, "properties", "calibration", "edges"), "other bins than edges"),
        (_set("AAAA", "artifacts", 0, "accuracy", "correct"), "does not say for 500 images"),
        (_set(2**40, "artifacts", 0, "accuracy", "images"), "all on 500"),
        (_set("segmentation", "data", "task"), "has no"),
        (_set(None, "artifacts", 3, "latency", 0, "ratio_low"), "without a baseline or an interval"),
        (_set({}, "artifacts", 3, "comparison", "intervals"), "has no drop in top-1"),
        (_set(None, "quantized", 0, "sites", 0, "alone_db"), "was measured and was not"),
        (_set([1.0, 2.0], "quantized", 0, "sites", 0, "largest"), "other thresholds than inputs"),
    ],
)  # fmt: skip
def test_contradictions_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    content = copy.deepcopy(document())
    change(content)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(seal(content)))
    with pytest.raises(ArtifactError, match=re.escape(says)):
        read_report(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema": "illama-deploy/report/2", "a": NaN}', "NaN"),
        ('{"schema": "illama-deploy/report/2", "a": 1e999}', "no number"),
        ('{"schema": "illama-deploy/report/2", "a": "\\ud800"}', "surrogate"),
        ('{"schema": "x", "schema": "illama-deploy/report/2"}', "twice"),
        ("[" * 100_000, "deeply"),
        ('{"schema": "illama-deploy/report/' + "9" * 5000 + '"}', "no report of"),
    ],
    ids=["NaN", "infinity", "surrogate", "twice", "deep", "version"],
)
def test_json_that_json_does_not_know(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=says):
        read_report(path)


def test_a_report_without_sites_is_rendered(tmp_path: Path) -> None:
    content = document()
    content["quantized"][0]["sites"] = []
    path = tmp_path / "report.json"
    path.write_text(json.dumps(seal(content)))
    for renderer in RENDERERS.values():
        renderer.render(read_report(path))


def test_confusions_unpack_no_further_than_they_may() -> None:
    matrices = [np.arange(6).reshape(2, 3)] * 5
    packed = pack_confusions(matrices)
    assert np.array_equal(unpack_confusions(packed, 2, 5), matrices)
    bomb = b64encode(zlib.compress(bytes(200_000_000))).decode()
    for text, images in ((packed, 4), (packed, 6), (bomb, 5), ("!", 5), (b64encode(b"x").decode(), 5)):
        with pytest.raises(ValueError):
            unpack_confusions(text, 2, images)


# --- histories -------------------------------------------------------------------------------------------------------


def test_one_bad_file_does_not_end_a_history(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(document(created=f"2026-11-2{len(name)}T08:00:00Z")))
    (tmp_path / "b" / "report.json").write_text("{")
    result = cli("report", "--history", tmp_path, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert f"left out {tmp_path / 'b' / 'report.json'}: The report is no JSON" in result.out
    for name in ("history.md", "history.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "2 reports" in text
        assert str(tmp_path / "b" / "report.json") in text
    for name in ("a", "c"):
        (tmp_path / name / "report.json").write_text("[]")
    assert "None of the 3 reports" in cli("report", "--history", tmp_path, "--out", tmp_path / "out").err


# --- mutants ---------------------------------------------------------------------------------------------------------

ODD = [
    *(None, True, 0, -1, 10**30, 1e300, 5e-324, 0.5, "", "x" * 2000, "a|b\x1b[2J\n<b>@x", [], {}, [[]], [None] * 3),
    *([1, 2, 3], {"a": 1}, {"not_measured": "x"}, "pass", "segmentation", [{}]),
]


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, one in items:
        yield from _places(one, (*at, key))


def mutate(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy with one or two places that are gone, something else, or there twice."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2))):
        place = rng.choice([place for place in _places(content) if place])
        inside: Any = content
        for key in place[:-1]:
            inside = inside[key]
        kind = rng.randrange(5)
        if kind == 0:
            del inside[place[-1]]
        elif kind == 3 and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[place[-1]]))
        elif kind == 4 and isinstance(inside, dict):
            inside[rng.choice(("zzz", "not_measured", "iou"))] = rng.choice(ODD)
        else:
            inside[place[-1]] = rng.choice(ODD)
    return content


def test_mutants_are_refused_or_rendered(tmp_path: Path) -> None:
    now, read = document(), 0
    for number in range(40):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(seal(mutate(now, random.Random(number)))))
        try:
            content = read_report(path)
        except ArtifactError:
            continue
        read += 1
        for renderer in RENDERERS.values():
            assert renderer.render(content)
        render_history([content, now])
        limits = {"batch": [1], "max_drop": 0.5, "min_effect": 0.02, "confidence": 0.95}
        list(compare_with_stored(now["artifacts"], now["data"], now["environment"], content, **limits))
    assert 0 < read < 40


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", "5", '{"a": 5}', '{"a": []}', '{"a": [1.5]}', '{"a": [null]}', '{"a": [[0]]}', '{"a": [true]}',
     '{"a": [NaN]}', '{"a": [1], "a": [2]}', '{"a": ["\\ud800"]}', "[" * 10_000, '{"a": [9]}', '{"a": [-1]}',
     '{"a": [1' + "0" * 5000 + "]}", '{"categories": 3}', "\udcff"],
)  # fmt: skip
def test_categories_of_any_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "categories.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as refused:
        read_categories(path, 5)
    assert refused.value.hint
    with pytest.raises(DataError):
        read_categories(tmp_path, 5)
