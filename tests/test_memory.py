"""What was typed on this machine, and nothing that a file says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from illama_deploy.memory import Images, images_of, path_of, remember_images, remember_path

ONE, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_remembers(tmp_path: Path) -> None:
    assert images_of(ONE) is None and path_of(ONE) is None
    remember_images(ONE, "folder:x")
    remember_path(ONE, tmp_path / "c.pth")
    assert images_of(None, OTHER, ONE) == Images("folder:x", str(Path.cwd()))
    assert path_of(ONE) == tmp_path / "c.pth"


@pytest.mark.parametrize("name", [os.fsdecode(b"gr\xfc\xdfe"), "größe", "50%25", "a b\nc"])
def test_names_may_be_any_bytes(tmp_path: Path, name: str) -> None:
    remember_images(ONE, f"folder:{name}")
    remember_path(ONE, tmp_path / name)
    assert images_of(ONE) == Images(f"folder:{name}", str(Path.cwd()))
    assert path_of(ONE) == tmp_path / name


def test_a_hash_names_no_other_file(tmp_path: Path, state: Path) -> None:
    remember_images(ONE, "folder:x")
    for name in (f"../images/{ONE}", "", "A" * 64, "é" * 64):
        assert images_of(name) is None


def test_where_nothing_can_be_kept(state: Path) -> None:
    state.write_text("a file")
    remember_images(ONE, "folder:x")
    assert images_of(ONE) is None


def test_damaged(state: Path) -> None:
    remember_images(ONE, "folder:x")
    [path] = state.rglob("*.json")
    path.write_text(path.read_text().replace("folder:x", "folder:y"))
    assert images_of(ONE) is None
