"""Checkpoints in every wrapping; geometry from tensors; another resolution."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from illama_deploy import CheckpointError, UsageError, load_checkpoint
from illama_deploy.checkpoint import interpolate_positions, read_checkpoint, save_checkpoint
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing

CONFIG = IllamaConfig(dim=128, depth=2, heads=2, image_size=(16, 16), patch_size=4, channels=1, classes=5)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Illama(CONFIG).state_dict()


WRAPPINGS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3},
    "arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-3)},
    "state_dict": lambda s: {"state_dict": s},
    "module": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "ema-only": lambda s: {"model_ema": {f"module.{k}": v for k, v in s.items()}},
    "half": lambda s: {k: v.half() for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(wrapping: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(WRAPPINGS[wrapping](state), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == CONFIG
    tolerance = 1e-3 if wrapping == "half" else 0
    for key, tensor in checkpoint.state.items():
        torch.testing.assert_close(tensor, state[key], atol=tolerance, rtol=tolerance)


def test_safetensors_without_metadata(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors").config == CONFIG


def test_ema_is_chosen_on_request(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    averaged = {k: v + 1 for k, v in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "x.pth")
    assert torch.equal(read_checkpoint(tmp_path / "x.pth").state["head.bias"], state["head.bias"])
    assert torch.equal(read_checkpoint(tmp_path / "x.pth", ema=True).state["head.bias"], averaged["head.bias"])
    torch.save({"model": state}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="EMA"):
        read_checkpoint(tmp_path / "y.pth", ema=True)


def test_metadata_survives(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=(16, 16), mean=(0.1,), std=(0.2,), crop=0.9, interpolation="bilinear")
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, state, CONFIG, preprocessing, classes=list("abcde"), data="digits")
    checkpoint = read_checkpoint(path)
    assert checkpoint.preprocessing == preprocessing
    assert checkpoint.classes == ("a", "b", "c", "d", "e")
    assert checkpoint.data == "digits"


def test_official_checkpoint(cifar_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(cifar_checkpoint)
    assert checkpoint.config == IllamaConfig(192, 12, 3, (32, 32), 4, 3, 10, 512)
    assert checkpoint.preprocessing == Preprocessing(size=(32, 32))


def test_heads_can_be_said(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth", heads=4).config.heads == 4


def test_oblong_geometry_is_said_once(tmp_path: Path) -> None:
    config = IllamaConfig(dim=64, depth=1, heads=1, image_size=(8, 24), patch_size=4, classes=2)
    torch.save(Illama(config).state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no square grid"):
        read_checkpoint(tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth", image_size=(8, 24)).config == config


def test_another_resolution_interpolates_positions(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth", image_size=(24, 32))
    assert checkpoint.config.image_size == checkpoint.preprocessing.size == (24, 32)
    old, new = state["pos_embed"], checkpoint.state["pos_embed"]
    expected = F.interpolate(old[:, :-1].reshape(1, 4, 4, 128).permute(0, 3, 1, 2), (6, 8), mode="bicubic")
    torch.testing.assert_close(new[:, :-1], expected.permute(0, 2, 3, 1).reshape(1, 48, 128))
    torch.testing.assert_close(new[:, -1], old[:, -1])
    model = load_checkpoint(tmp_path / "x.pth", image_size=(24, 32))
    assert model(torch.zeros(1, 1, 24, 32)).shape == (1, 5)


def test_interpolation_to_the_same_grid_changes_nothing() -> None:
    positions = torch.randn(1, 17, 8)
    assert interpolate_positions(positions, (4, 4), (4, 4)) is positions


def test_a_size_that_patches_do_not_divide(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UsageError, match="multiple of patch size 4"):
        read_checkpoint(tmp_path / "x.pth", image_size=(18, 18))


def test_loaded_module_is_in_evaluation_mode() -> None:
    model = load_checkpoint()
    assert not model.training
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
