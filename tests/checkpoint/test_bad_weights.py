"""Checkpoints whose tensors or metadata do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ..bad_input import (
    PLAIN,
    Refused,
    State,
    save,
)


@pytest.mark.parametrize("key", ["blocks.1.mlp.fc2.weight", "blocks.0.mlp.fc1.weight", "head.weight", "norm.weight"])
def test_missing_key(refused: Refused, tmp_path: Path, digits_state: State, key: str) -> None:
    path = save(tmp_path / "a.pth", digits_state, **{key: None})
    refused("quantize", path, *PLAIN, says=(key, "a.pth"))


def test_extra_key(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    path = save(tmp_path / "a.pth", digits_state, adapter__weight=torch.ones(2))
    refused("quantize", path, *PLAIN, says=("unexpected: adapter.weight", "a.pth"))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("head.bias", (11,)),
        ("cls_token", (128,)),
        ("head.weight", ()),
        ("pos_embed", (1, 64, 128)),
        ("pos_embed", (1, 0, 128)),
        ("patch_embed.proj.weight", (128, 1, 4, 8)),
        ("patch_embed.proj.weight", (128, 1, 0, 0)),
    ],
)
def test_misshapen_key(refused: Refused, tmp_path: Path, digits_state: State, key: str, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.pth", digits_state, **{key: torch.ones(shape)})
    refused("quantize", path, *PLAIN, says=(key, "a.pth"))


def test_many_bad_keys_are_counted(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    extra = {f"extra{i}": torch.ones(1) for i in range(20)}
    path = save(tmp_path / "a.pth", digits_state, **extra)
    err = refused("quantize", path, *PLAIN, says=("unexpected: extra0", "and 12 more"))
    assert "extra19" not in err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_no_numbers(refused: Refused, tmp_path: Path, digits_state: State, value: str) -> None:
    bad = digits_state["blocks.1.attn.qkv.weight"].clone()
    bad[3, 5] = float(value)
    path = save(tmp_path / "a.pth", digits_state, blocks__1__attn__qkv__weight=bad)
    err = refused("quantize", path, *PLAIN, says=("NaN or infinite", "blocks.1.attn.qkv.weight", "a.pth"))
    assert "blocks.0" not in err


def test_sparse_weights(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    path = save(tmp_path / "a.pth", digits_state, head__weight=digits_state["head.weight"].to_sparse())
    refused("quantize", path, *PLAIN, says=("head.weight", "a.pth"))


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"image_size": "big"}, id="image_size"),
        pytest.param({"heads": "two"}, id="heads"),
        pytest.param({"preprocessing": {"blur": 1}}, id="preprocessing"),
        pytest.param({"preprocessing": 7}, id="preprocessing-number"),
        pytest.param({"classes": 3}, id="classes"),
        pytest.param({"data": 7}, id="data"),
    ],
)
def test_wrong_metadata(refused: Refused, tmp_path: Path, digits_state: State, metadata: dict[str, Any]) -> None:
    torch.save({"model": digits_state, "illama_deploy": metadata}, tmp_path / "a.pth")
    refused("quantize", tmp_path / "a.pth", says=("a.pth", *metadata), hint=False)


@pytest.mark.parametrize("heads", [0, 3, -1])
def test_wrong_heads(refused: Refused, heads: int) -> None:
    refused("quantize", "--heads", heads, says=("heads", str(heads), "--heads"))
