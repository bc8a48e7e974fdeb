"""An output is whole under its name, or what stood there is: whatever else happens in that place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from illama_deploy import atomic
from illama_deploy.atomic import new_directory, new_file, owned
from illama_deploy.errors import ArtifactError


def _write(directory: Path, text: str) -> None:
    (directory / "file").write_text(text)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with new_directory(tmp_path / "out") as directory:
        _write(directory, "old")
    return tmp_path / "out"


def _names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("exchanges", [True, False])
def test_replaced_without_leftovers(old: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic, "_rename_call", lambda: None)
    with new_directory(old, force=True) as directory:
        _write(directory, "new")
        assert (old / "file").read_text() == "old"
    assert (old / "file").read_text() == "new"
    assert _names(old.parent) == ["out"]


def test_the_name_is_never_gone(old: Path) -> None:
    """Another process looks at the name without a pause while it is replaced again and again."""
    code = (
        "import sys, os\nn = 0\nwhile not os.path.exists(sys.argv[2]):\n  open(sys.argv[1]).close(); n += 1\nprint(n)"
    )
    end = old.parent / "end"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(old / "file"), str(end)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as looking:
        time.sleep(0.2)
        for number in range(200):
            with new_directory(old, force=True) as directory:
                _write(directory, str(number))
        end.touch()
        out, err = looking.communicate(timeout=60)
    assert not err, err.decode()
    assert int(out) > 100


def test_what_comes_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ArtifactError, match="came to stand"), new_directory(out) as directory:
        _write(directory, "mine")
        out.mkdir()
        _write(out, "precious")
    assert (out / "file").read_text() == "precious"
    empty = tmp_path / "empty"
    with pytest.raises(ArtifactError, match="came to stand"), new_directory(empty) as directory:
        empty.mkdir()
    file = tmp_path / "file.json"
    with pytest.raises(ArtifactError, match="came to stand"), new_file(file) as aside:
        aside.write_text("mine")
        file.write_text("precious")
    assert file.read_text() == "precious"
    assert _names(tmp_path) == ["empty", "file.json", "out"]


def test_what_was_replaced_meanwhile_stays(old: Path) -> None:
    with pytest.raises(ArtifactError, match="was replaced"), new_directory(old, force=True):
        old.rename(old.parent / "moved")
        old.mkdir()
    assert _names(old.parent) == ["moved", "out"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as directory:
        _write(directory, "first")
        with pytest.raises(ArtifactError, match="Another run is writing"), new_directory(tmp_path / "out"):
            pass
        with new_directory(tmp_path / "other"):
            pass
    with new_directory(tmp_path / "out", force=True):  # the lock went with its block
        pass
    assert _names(tmp_path) == ["other", "out"]


KILLED = """
import sys, os, signal
from illama_deploy.atomic import new_directory, new_file
from pathlib import Path
place = Path(sys.argv[1])
with new_directory(place / "out", force=True) as directory, new_file(place / "f.json", force=True) as file:
    (directory / "file").write_text("half")
    file.write_text("half")
    print("there", flush=True)
    signal.pause()
"""


def test_what_a_killed_run_left_is_cleared(old: Path) -> None:
    place = old.parent
    with subprocess.Popen([sys.executable, "-c", KILLED, str(place)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        left = _names(place)
        with pytest.raises(ArtifactError, match="Another run"), new_directory(old, force=True):
            pass
        with new_file(place / "f.json") as file:  # a live writer's file stays
            file.write_text("whole")
        assert set(left) <= {*_names(place)}
        process.kill()
    assert len(left) == 4  # the output, its lock, and what was put aside of both
    theirs = (".out.partial-x", ".other.illama-partial-x", ".out.old-y")  # of others
    for name in theirs:
        (place / name).mkdir()
    with new_directory(old, force=True) as directory:
        _write(directory, "new")
    with new_file(place / "f.json", force=True) as file:
        file.write_text("new")
    assert _names(place) == sorted([*theirs, "f.json", "out"])


def test_what_was_put_aside_for_a_moment_comes_back(tmp_path: Path) -> None:
    """Where names cannot be exchanged, a run killed between two renames leaves the artifact under another name."""
    (tmp_path / ".out.illama-old-abc").mkdir()
    _write(tmp_path / ".out.illama-old-abc", "old")
    with pytest.raises(ArtifactError, match="exists already"), new_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_links_that_stand_there_lead_nowhere(tmp_path: Path) -> None:
    """Names of what is put aside cannot be foreseen, and a lock's is not opened through a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    (out.parent / f".out.illama-partial-{os.getpid()}").symlink_to(outside)
    (out.parent / f".f.json.partial-{os.getpid()}").symlink_to(outside / "file")
    with new_directory(out) as directory:
        _write(directory, "mine")
    with new_file(out.parent / "f.json") as file:
        file.write_text("mine")
    (out.parent / ".b.illama-lock").symlink_to(outside / "file")
    with pytest.raises(ArtifactError, match="Cannot write there"), new_directory(out.parent / "b"):
        pass
    assert (outside / "file").read_text() == "precious"
    assert _names(outside) == ["file"]


def test_what_is_replaced_may_be_kept(old: Path) -> None:
    keep = old.parent / "earlier" / "out-1"
    for text in ("new", "newer"):
        with new_directory(old, force=True, keep=lambda _: keep) as directory:
            _write(directory, text)
    assert (keep / "file").read_text() == "old"  # the name was taken the second time
    assert (old / "file").read_text() == "newer"
    assert _names(old.parent) == ["earlier", "out"]


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with new_directory(tmp_path / "out", force=True) as directory:
        _write(directory, "new")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "new"


def test_an_owner_killed_leaves_the_place_free(tmp_path: Path) -> None:
    code = "import sys, signal\nfrom illama_deploy.atomic import owned\nfrom pathlib import Path\n"
    code += "with owned(Path(sys.argv[1])): print('there', flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        with pytest.raises(ArtifactError, match="Another run"), owned(tmp_path / "run"):
            pass
        process.send_signal(signal.SIGKILL)
    with owned(tmp_path / "run"):
        pass
    assert _names(tmp_path) == []
