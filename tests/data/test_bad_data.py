"""Images, folders and tables that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..bad_input import (
    Refused,
    State,
    image_folder,
    lock,
    parquet,
    save,
)
from ..conftest import Cli


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
@pytest.mark.parametrize("spec", ["nonsense:x", "digits:foo", "folder:", "parquet"])
def test_unknown_data_spec(refused: Refused, command: str, spec: str) -> None:
    refused(command, "digits", "--data", spec, says=(repr(spec), "folder:PATH", "parquet:PATH", "timm:NAME"))


def test_no_such_folder(refused: Refused, tmp_path: Path) -> None:
    refused("quantize", "--data", f"folder:{tmp_path / 'gone'}", says=("no such folder", "gone"))


def test_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("quantize", "--data", f"folder:{tmp_path / 'empty'}", says=("no image", "empty"))


def test_empty_class_folders(refused: Refused, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "hollow", images=0)
    refused("quantize", "--data", spec, says=("no image", "hollow"))


def test_locked_folder(refused: Refused, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "images")
    lock(tmp_path / "images", os.R_OK)
    try:
        refused("quantize", "--data", spec, says=("Permission denied", "images"))
    finally:
        (tmp_path / "images").chmod(0o755)


def test_another_number_of_classes(refused: Refused, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "three", classes=3)
    refused("evaluate", "digits", "--data", spec, says=("3 classes", "network 10", "three"))


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_unknown_split(refused: Refused, tmp_path: Path, kind: str) -> None:
    spec = image_folder(tmp_path / "images") if kind == "folder" else kind
    refused("quantize", "--data", spec, "--split", "holdout", says=("'holdout'", "--split"))


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_broken_image(refused: Refused, tmp_path: Path, command: str, damage: str) -> None:
    spec = image_folder(tmp_path / "images")
    path = tmp_path / "images" / "3" / "0.png"
    path.write_bytes({"text": b"no image", "cut": path.read_bytes()[:50], "empty": b""}[damage])
    refused(command, "digits", "--data", spec, says=("cannot be decoded", str(path), "--skip-broken"))


def test_quantize_skips_broken_images(cli: Cli, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "images")
    path = tmp_path / "images" / "3" / "0.png"
    path.write_bytes(b"no image")
    code, out, _ = cli("quantize", "--data", spec, "--skip-broken", "--out", tmp_path / "out")
    assert code == 0
    assert "from 9 images" in out
    assert "1 broken image" in out
    assert "3/0.png" in out
    assert "on 9 of them" in out  # the figures do not count it either
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["data"]["skipped"] == ["3/0.png"]


def test_evaluate_skips_broken_images(cli: Cli, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "images")
    path = tmp_path / "images" / "3" / "0.png"
    path.write_bytes(b"no image")
    code, out, _ = cli("evaluate", "digits", "--data", spec, "--skip-broken", "--json", tmp_path / "figures.json")
    assert code == 0
    assert "1 broken image" in out
    assert str(path) in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["images"], figures["skipped"]) == (9, [str(path)])


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_all_images_broken(refused: Refused, tmp_path: Path, command: str) -> None:
    spec = image_folder(tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    refused(
        command, "digits", "--data", spec, "--skip-broken", says=("No image could be decoded", str(tmp_path / "images"))
    )


def test_missing_parquet(refused: Refused, tmp_path: Path) -> None:
    refused("quantize", "--data", f"parquet:{tmp_path / 'gone'}", says=("no such file or directory", "gone"))


@pytest.mark.parametrize("content", [b"", b"no parquet at all " * 9], ids=["empty", "garbage"])
def test_garbage_parquet(refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.parquet").write_bytes(content)
    spec = f"parquet:{tmp_path / 'bad.parquet'}"
    refused("quantize", "--data", spec, says=("Not a readable parquet file", "bad.parquet"))


def test_parquet_damaged_inside(refused: Refused, tmp_path: Path) -> None:
    path = parquet(tmp_path / "train.parquet")
    content = bytearray(path.read_bytes())
    content[8:80] = b"\xff" * 72  # the pages, not the footer
    path.write_bytes(content)
    err = refused("quantize", "--data", f"parquet:{path}", says=("train.parquet",))
    assert "Cannot write" not in err


def test_parquet_without_images(refused: Refused, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    refused(
        "quantize",
        "--data",
        f"parquet:{tmp_path / 'text.parquet'}",
        says=("text.parquet", "text (string), label (int64)"),
    )


def test_parquet_shards_that_differ(refused: Refused, tmp_path: Path) -> None:
    parquet(tmp_path / "shards" / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "shards" / "train-00001-of-00002.parquet")
    refused("quantize", "--data", f"parquet:{tmp_path / 'shards'}", says=("train-00001-of-00002.parquet",))


def test_unknown_parquet_split(refused: Refused, tmp_path: Path) -> None:
    parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    spec = f"parquet:{tmp_path / 'shards'}"
    refused("quantize", "--data", spec, "--split", "holdout", says=("holdout", "shards", "Splits there: train"))


def test_label_outside_the_classes(refused: Refused, tmp_path: Path) -> None:
    path = parquet(tmp_path / "many.parquet", rows=12)
    refused("evaluate", "digits", "--data", f"parquet:{path}", says=("Label 10", "10 classes", "many.parquet row 10"))


def test_no_data_is_known(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    path = save(tmp_path / "a.pth", digits_state)
    refused("quantize", path, says=("Calibration needs images", "not been said", "--data"))
    refused("evaluate", path, says=("needs images", "not been said", "a.pth", "--data"))
