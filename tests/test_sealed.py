"""Documents are read strictly, and refused where their seal does not hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from illama_deploy.errors import ArtifactError
from illama_deploy.hashing import canonical_json
from illama_deploy.sealed import parse_json, read_sealed, seal, write_sealed
from illama_deploy.tables import typed

SCHEMA = "test/1"


def _read(path: Path) -> dict[str, object]:
    return read_sealed(path, SCHEMA, what="The document", again="Write it again.")


def test_round_trip(tmp_path: Path) -> None:
    write_sealed(tmp_path / "d.json", {"schema": SCHEMA, "a": [1, 2.5, None, "ü"]})
    assert _read(tmp_path / "d.json")["a"] == [1, 2.5, None, "ü"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "'a' stands in it twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "no number"),
        ('{"a": 1e999}', "no number"),
        ('{"a": ' + "9" * 5000 + "}", "no number"),
        ('{"a": "\\ud800"}', "lone surrogate"),
        ('{"\\ud800": 1}', "lone surrogate"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ("[" * 100000, "nested too deeply"),
        ('{"a": 1', "delimiter"),
        ("", "Expecting"),
    ],
    ids=range(11),
)
def test_what_json_leaves_open_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_json(text)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(a=2),
        lambda d: d.pop("a"),
        lambda d: d.update(content_sha256="0" * 64),
        lambda d: d.pop("content_sha256"),
        lambda d: d.update(content_sha256=5),
        lambda d: d.update(schema="test/2"),
        lambda d: d.update(schema=["x" * 10000]),
        lambda d: d.clear(),
    ],
    ids=range(8),
)
def test_edited(tmp_path: Path, edit: object) -> None:
    content = seal({"schema": SCHEMA, "a": 1})
    edit(content)  # type: ignore[operator]
    (tmp_path / "d.json").write_text(canonical_json(content))
    with pytest.raises(ArtifactError):
        _read(tmp_path / "d.json")


@pytest.mark.parametrize(
    "edit", [lambda t: t[:-1], lambda t: t + "\n", lambda t: t.replace("\n", "\r\n"), lambda t: t + " "]
)
def test_other_spaces_are_another_file(tmp_path: Path, edit: Callable[[str], str]) -> None:
    """Other files name it by the hash of its bytes."""
    path = tmp_path / "d.json"
    write_sealed(path, {"schema": SCHEMA, "a": 1})
    path.write_bytes(edit(path.read_text()).encode())
    with pytest.raises(ArtifactError, match="edited after it was written"):
        _read(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b'"\xe4"')
    (tmp_path / "list").write_text("[1]")
    for name in ("fifo", "latin", "list", "nothing", "."):
        with pytest.raises(ArtifactError):
            _read(tmp_path / name)


def test_nothing_that_is_not_finite_is_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    rate: float = 0.0


def test_typed() -> None:
    found = typed(dict[str, Inner], {"x": {"size": [1, 2], "rate": 3}})
    assert found == {"x": Inner((1, 2), 3.0)}
    for value, place in (({"x": {"size": [1.5, 2]}}, r"\$\[\.\.\.\]\.size"), ({"x": {}}, "size"), ([], "object")):
        with pytest.raises(ValueError, match=place):
            typed(dict[str, Inner], value)
