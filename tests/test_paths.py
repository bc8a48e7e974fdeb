"""A path that is not UTF-8 is refused before any work, by each step that would give it to a library."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from illama_deploy.checkpoint import find_checkpoint
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.steps.export import ExportResult

from .conftest import Cli

ODD = os.fsdecode(b"\xe4")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    odd = tmp_path / ODD
    odd.mkdir()
    return odd


def _refused(cli: Cli, *arguments: object) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert "The path is not UTF-8" in result.err
    assert "\\xe4" in result.err


def test_what_is_read(cli: Cli, place: Path, digits_export: ExportResult, digits_quantized: QuantizedArtifact) -> None:
    for directory in (digits_export.directory, digits_quantized.path):
        shutil.copytree(directory, place / directory.name)
    shutil.copy(find_checkpoint("digits"), place / "c.safetensors")
    onnx = place / digits_export.directory.name / "model.onnx"
    quantized = place / digits_quantized.path.name
    for path in (onnx, quantized, place / "c.safetensors"):
        _refused(cli, "evaluate", path, "--data", "digits", "--limit", 8)
    for path in (onnx, quantized):
        _refused(cli, "inspect", path)


def test_what_is_written(cli: Cli, place: Path, digits_quantized: QuantizedArtifact) -> None:
    _refused(cli, "quantize", "digits", "--calib-images", 8, "--out", place / "q")
    _refused(cli, "export", digits_quantized.path, "--onnx", "--out", place / "o")
    _refused(cli, "train", "--recipe", "digits", "--out", place / "run")
    assert not list(place.iterdir())


def test_images_may_lie_there(cli: Cli, place: Path, tmp_path: Path) -> None:
    """And the steps that follow find them again."""
    from PIL import Image

    for i in range(4):
        Image.new("L", (8, 8), 40 * i).save(place / f"{i}.png")
    result = cli("quantize", "digits", "--data", f"folder:{place}", "--out", tmp_path / "q")
    assert result.code == 0, result.err
    result = cli("inspect", tmp_path / "q", "--images", 4)
    assert result.code == 0, result.err
