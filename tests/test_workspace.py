"""The workspace knows what was made from what: every step names its input, and takes the newest that it can use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from illama_deploy import UsageError
from illama_deploy.checkpoint import EMBEDDED_FILE
from illama_deploy.errors import ArtifactError
from illama_deploy.sealed import read_sealed, write_sealed
from illama_deploy.workspace import RECORD, SCHEMA, Workspace, identity, need

from .conftest import Cli


def _artifact(path: Path, text: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(text)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def test_the_newest(place: Workspace) -> None:
    assert place.newest("quantize") is None
    for step, name in (("quantize", "quantized"), ("qat", "qat/quantized"), ("quantize", "quantized")):
        place.record(step, _artifact(place.root / name, step), format="W8A8")
        found = place.newest("quantize", "qat")
        assert found is not None and (found[0].step, found[1]) == (step, place.root / name)
    assert [made.artifact for made, _ in place.made()] == ["quantized", "qat/quantized"]
    (place.quantized / "manifest.json").write_text("replaced by hand")
    assert [made.artifact for made, _ in place.made()] == ["qat/quantized"]


def test_what_lies_elsewhere(place: Workspace, tmp_path: Path) -> None:
    one = _artifact(tmp_path / "one", "1")
    place.record("quantize", one, format="W8A8")  # nobody named this workspace
    assert place.newest("quantize") is None
    place.record("quantize", one, format="W8A8", named=True)
    found = place.newest("quantize")
    assert found is not None and found[1] == one
    assert not place.root.exists()
    place.record("quantize", _artifact(place.quantized, "2"), format="W8A8", named=True)
    assert [path for _, path in place.made()] == [place.quantized, one]


def test_clocks_may_jump(place: Workspace) -> None:
    place.record("quantize", _artifact(place.quantized, "1"), format="W8A8")
    record = read_sealed(place.root / RECORD, SCHEMA, what="", again="")
    record["made"][0]["when"] = "2999-01-01T00:00:00.000000+00:00"
    write_sealed(place.root / RECORD, record)
    place.record("qat", _artifact(place.root / "qat" / "quantized", "2"), format="W8A8")
    found = place.newest("quantize", "qat")
    assert found is not None and found[0].step == "qat"


def test_stale(place: Workspace) -> None:
    place.record("quantize", _artifact(place.quantized, "1"), format="W8A8")
    place.record("export", _artifact(place.onnx, "e"), source=place.quantized, format="W8A8")
    found = place.newest("export")
    assert found is not None and not place.stale(found[0])
    place.record("quantize", _artifact(place.quantized, "2"), format="W8A8")
    assert place.stale(found[0])
    there = Workspace.of(place.onnx)
    assert there is not None and there[1] == found[0]
    shutil.rmtree(place.quantized)  # what is gone was not replaced
    assert not place.stale(found[0])


@pytest.mark.parametrize(
    "made",
    [
        [{"artifact": "../outside"}],
        [{"artifact": "/etc"}],
        [{"artifact": ""}],
        [{"artifact": "link/inside"}],
        [{"when": "yesterday"}],
        [{"sha256": 5}],
        [{"opened": {"heads": [1, 2, 3]}}],
        [5],
        None,
    ],
    ids=str,
)
def test_a_record_from_somebody_else(place: Workspace, tmp_path: Path, made: object) -> None:
    """It names places in the workspace alone, and nothing of another type gets in."""
    (tmp_path / "outside").mkdir()
    place.root.mkdir()
    (place.root / "link").symlink_to(tmp_path / "outside")
    usual = {"step": "quantize", "artifact": "x", "sha256": "0" * 64, "format": "W8A8"}
    usual |= {"when": "2026-01-01T00:00:00+00:00"}
    made = [usual | one if isinstance(one, dict) else one for one in made] if isinstance(made, list) else made
    write_sealed(place.root / RECORD, {"schema": SCHEMA, "made": made})
    with pytest.raises(ArtifactError, match="record"):
        place.newest("quantize")
    place.record("quantize", _artifact(place.quantized, "1"), format="W8A8")  # work just done is not lost
    assert place.newest("quantize") is not None


def test_again_in_the_usual_place(place: Workspace) -> None:
    """What a step left there before is kept; what nobody recorded is not touched."""

    def make(text: str, given: Path | None = None) -> None:
        with place.output(given, place.quantized, force=False) as directory:
            (directory / "manifest.json").write_text(text)
        place.record("quantize", place.quantized, format="W8A8")

    make("1")
    first = (identity(place.quantized) or "")[:8]
    make("2")
    assert (place.root / "earlier" / f"quantized-{first}" / "manifest.json").read_text() == "1"
    make("2")  # the same: nothing to keep
    assert [path.name for path in (place.root / "earlier").iterdir()] == [f"quantized-{first}"]
    with pytest.raises(ArtifactError, match="exists already"):
        make("3", place.quantized)
    (place.quantized / "manifest.json").write_text("mine")
    with pytest.raises(ArtifactError, match="exists already"):
        make("3")
    assert (place.quantized / "manifest.json").read_text() == "mine"


def test_another_name_for_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLAMA_DEPLOY_WORKSPACE", str(tmp_path / "mine"))
    assert Workspace().quantized == tmp_path / "mine" / "quantized"
    monkeypatch.delenv("ILLAMA_DEPLOY_WORKSPACE")
    assert Workspace().root == Path("illama-out")


def test_need(place: Workspace) -> None:
    with pytest.raises(UsageError, match="left nothing here"):
        need(place.quantized, "quantize")


@pytest.mark.slow
def test_the_embedded_network_only_where_nothing_was_made(cli: Cli, cifar_checkpoint: Path, tmp_path: Path) -> None:
    """A step without arguments says which network it takes, and it is never the embedded one in place of another."""
    first = cli("quantize", "--calib-images", 16)
    assert first.code == 0, first.err
    assert "embedded digits network, since nothing was made" in first.out.splitlines()[0]
    again = cli("quantize", "--calib-images", 16, "--format", "W8A8-dynamic")
    assert again.code == 0 and "embedded digits network, which" in again.out.splitlines()[0], again.err
    other = tmp_path / "cifar.pth"
    shutil.copy(cifar_checkpoint, other)
    data = f"parquet:{cifar_checkpoint.parents[1] / 'data' / 'cifar10'}"
    assert cli("quantize", other, "--data", data, "--calib-images", 16, "--out", tmp_path / "q").code == 0
    third = cli("quantize", "--format", "W8A8-dynamic", "--calib-images", 16)  # its images were named before
    assert third.code == 0, third.err
    assert str(other) in third.out.splitlines()[0]
    other.rename(tmp_path / "moved.pth")
    gone = cli("quantize", "--calib-images", 16)
    assert gone.code == 2 and "no longer where it was" in gone.err and "cifar.pth" in gone.err


def test_no_option_names_what_is_replaced(cli: Cli, tmp_path: Path) -> None:
    """Inputs that are named by an option, not by position, are never inside what `--force` replaces."""
    run = tmp_path / "run"
    (run / "quantized" / "images").mkdir(parents=True)
    shutil.copy(EMBEDDED_FILE, run / "model.safetensors")
    shutil.copy(EMBEDDED_FILE, run / "quantized" / "float.safetensors")
    for arguments in (
        ("train", "--recipe", "digits", "--checkpoint", run / "model.safetensors"),
        ("train", "--recipe", "digits", "--teacher", run / "model.safetensors"),
        ("qat", run / "quantized" / "float.safetensors", "--data", "digits"),
        ("qat", "digits", "--source", run / "quantized" / "float.safetensors"),
        ("qat", "digits", "--data", f"folder:{run / 'quantized' / 'images'}"),
    ):
        refused = cli(*arguments, "--out", run, "--force")
        assert refused.code == 2 and "would delete what is read from" in refused.err, (arguments, refused.err)
    for option in ("--data", "--recipe"):
        refused = cli("quantize", "digits", option, run / "quantized" / "images", "--out", run / "quantized", "--force")
        assert refused.code == 2, refused.err
    assert (run / "quantized" / "images").is_dir()
    figures = tmp_path / "classes.json"
    figures.write_text("{}")
    options = ("--properties", "shape-bias", "--cue-conflict", tmp_path, "--categories", figures, "--json", figures)
    refused = cli("evaluate", "digits", "--data", "digits", *options)
    assert refused.code == 2 and figures.read_text() == "{}", refused.err
