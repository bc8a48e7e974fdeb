"""Checkpoint files that are none, or harm."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from illama_deploy.checkpoint import find_checkpoint, read_checkpoint

from ..bad_input import (
    PLAIN,
    Refused,
    State,
    lock,
    save,
)
from ..conftest import Cli


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors", "no/such/folder.pth"])
def test_missing_checkpoint(refused: Refused, tmp_path: Path, name: str) -> None:
    refused("quantize", tmp_path / name, says=("There is no such file", name))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_is_a_directory(refused: Refused, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    refused("quantize", tmp_path / f"folder{suffix}", says=("directory", f"folder{suffix}"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_checkpoint(refused: Refused, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"locked{suffix}"
    shutil.copy(find_checkpoint("digits"), path)
    lock(path, os.R_OK)
    refused("quantize", path, says=("Permission denied", path.name))


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_checkpoint_in_a_locked_folder(refused: Refused, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    shutil.copy(find_checkpoint("digits"), folder / "digits.safetensors")
    lock(folder, os.X_OK)
    try:
        refused(command, folder / "digits.safetensors", says=("Permission denied", "digits.safetensors"))
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_checkpoint(refused: Refused, tmp_path: Path, digits_state: State, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    whole = save(path, digits_state) if suffix == ".pth" else find_checkpoint("digits")
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused("quantize", path, says=("Not a readable", path.name, "cut short"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A plain text file.\n", id="text"),
        pytest.param("<!DOCTYPE html><html>Not found</html>\n", id="html"),
        pytest.param("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", id="lfs-pointer"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_text_is_no_checkpoint(refused: Refused, tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text(text)
    err = refused("quantize", path, says=("Not a readable", path.name))
    assert "run code" not in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param([1, 2, 3], "list", id="list"),
        pytest.param(torch.ones(3), "Tensor", id="tensor"),
        pytest.param({}, "dict", id="empty"),
        pytest.param({"model": {"head.weight": "text"}}, "head.weight", id="text-for-a-tensor"),
    ],
)
def test_pth_of_something_else(refused: Refused, tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    refused("quantize", tmp_path / "other.pth", says=(says, "other.pth"))


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.filterwarnings("error::UserWarning")  # one would stand before the message
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_pickle_that_runs_code(refused: Refused, tmp_path: Path, digits_state: State, command: str, kind: str) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "control")))
    assert (tmp_path / "control").exists()

    content = {"model": digits_state, "args": Touch(tmp_path / "marker")}
    if kind == "plain":
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=kind == "zip")
    refused(command, tmp_path / "evil.pth", *PLAIN, says=("wants to run code", "evil.pth", "safetensors"))
    assert not (tmp_path / "marker").exists()


def test_pickled_module(refused: Refused, tmp_path: Path) -> None:
    torch.save(read_checkpoint("digits").build(), tmp_path / "module.pth")
    refused("quantize", tmp_path / "module.pth", says=("wants to run code", "module.pth", "state_dict"))


def test_namespace_beside_the_weights_loads(cli: Cli, tmp_path: Path, digits_state: State) -> None:
    path = tmp_path / "released.pth"
    torch.save({"model": digits_state, "args": argparse.Namespace(lr=1e-3, model="tiny"), "epoch": 7}, path)
    code, out, err = cli("quantize", path, *PLAIN, "--calib-images", 8, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "12 sites from 8 images of digits" in out
    assert (tmp_path / "out" / "manifest.json").exists()
