"""Exports of what cannot be exported, and damaged quantized directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from illama_deploy.checkpoint import read_checkpoint

from ..bad_input import (
    Refused,
    edit_manifest,
)
from ..conftest import Cli


@pytest.mark.slow
def test_export_without_a_target(refused: Refused, quantized: Path) -> None:
    refused("export", quantized, says=("No target", "--onnx"))


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_export_of_something_else(refused: Refused, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("text")
    err = refused("export", path, "--onnx", says=(path.name,))
    assert "no quantized checkpoint" in err or "no such" in err or "Not a readable checkpoint" in err


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_edited_weights(refused: Refused, quantized: Path, command: str) -> None:
    weights = quantized / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    options = ("--onnx",) if command == "export" else ()
    refused(command, quantized, *options, says=("hash differs", "model.safetensors"))


def test_missing_weights(refused: Refused, quantized: Path) -> None:
    (quantized / "model.safetensors").unlink()
    refused("export", quantized, "--onnx", says=("model.safetensors",))


@pytest.mark.parametrize("schema", ["illama-deploy/quantized/999", None])
def test_manifest_of_another_schema(refused: Refused, quantized: Path, schema: str | None) -> None:
    edit_manifest(quantized, schema=schema)
    refused("export", quantized, "--onnx", says=("schema", repr(schema), "illama-deploy/quantized/3", "manifest.json"))


@pytest.mark.parametrize("content", [b"", b'{"schema": ', b"\xff\xff"], ids=["empty", "cut", "binary"])
def test_manifest_is_not_json(refused: Refused, quantized: Path, content: bytes) -> None:
    (quantized / "manifest.json").write_bytes(content)
    refused("export", quantized, "--onnx", says=("The manifest is no", "manifest.json"))


@pytest.mark.parametrize(
    "key", ["geometry", "weights", "recipe", "sites", "preprocessing", "classes", "data", "format", "source"]
)
def test_manifest_lacks_a_key(refused: Refused, quantized: Path, key: str) -> None:
    edit_manifest(quantized, **{key: None})
    refused("export", quantized, "--onnx", says=(f"`{key}`", str(quantized)))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("geometry", {"patch_size": 0}),
        ("geometry", {"heads": 0}),
        ("geometry", {"depth": 3}),
        ("preprocessing", {"blur": 1}),
        ("recipe", {"blur": 1}),
        ("data", {"kind": 5}),
    ],
)
def test_manifest_with_a_wrong_value(refused: Refused, quantized: Path, key: str, change: dict[str, Any]) -> None:
    manifest = json.loads((quantized / "manifest.json").read_text())
    edit_manifest(quantized, **{key: {**manifest[key], **change}})
    refused("export", quantized, "--onnx", says=(str(quantized),))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
def test_export_without_its_source(refused: Refused, cli: Cli, tmp_path: Path, damage: str) -> None:
    source, quantized = tmp_path / "source.pth", tmp_path / "quantized"
    state = dict(read_checkpoint("digits").state)
    torch.save({"model": state}, source)
    given = ("--data", "digits", "--mean", 0.3, "--std", 0.3, "--calib-images", 16)
    assert cli("quantize", source, *given, "--out", quantized).code == 0
    whole = source.read_bytes()
    if damage == "changed":
        torch.save({"model": {**state, "pos_embed": state["pos_embed"] + 1}}, source)
    elif damage == "cut":
        source.write_bytes(whole[:1000])
    else:
        source.unlink()
    says = {"gone": "no such file", "changed": "hash differs", "cut": "cannot be read"}[damage]
    refused("export", quantized, "--onnx", says=(says, "source.pth", "--source", "--no-float"))
    # The hint holds.
    code, _, err = cli("export", quantized, "--onnx", "--no-float", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
