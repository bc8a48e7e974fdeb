"""timm's networks through the commands, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import illama_deploy
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.model.vit import VitConfig

from ..conftest import Cli
from ..measure.test_segmentation import CONFIG, _world
from ..networks import hub_folder, save_kinds

RECIPE = """
epochs = {epochs}
batch_size = 4
lr = 2e-3
warmup_epochs = 0
precision = "float32"
[model]
architecture = "{name}"
image_size = 32
patch_size = 8
dim = 64
depth = 2
heads = 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_rope_mixed_224"])
def test_hub_folder_needs_nothing_else(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    hub_folder(tmp_path / "hub", name, classes=4, knows=True, prepared={"crop_pct": 1.0})
    save_kinds(tmp_path / "images", 400, 4, 32)
    code, _, err = cli("quantize", "hub", "--bits", 8, "--data", "folder:images", "--calib-images", 64)
    assert (code, err) == (0, "")
    code, out, err = cli("export", "--onnx")
    assert (code, err) == (0, "")
    assert "quantized GEMMs on quantized kernels" in out
    code, out, err = cli("check", "--rounds", 20, "--max-latency-ratio", 100)
    assert code in (0, 3), out + err  # 400 images may be too few for a verdict
    report = json.loads(Path("illama-out/report/report.json").read_text())
    baseline, quantized = report["artifacts"]
    assert baseline["accuracy"]["top1"] > 90
    assert quantized["accuracy"]["top1"] > baseline["accuracy"]["top1"] - 0.6
    assert quantized["comparison"]["agreement"] >= 99


@pytest.mark.slow
def test_networks_of_both_families_in_one_check(tmp_path: Path) -> None:
    hub_folder(tmp_path / "hub", "vit_tiny_patch16_224", classes=4, knows=True, prepared={"crop_pct": 1.0})
    save_splits(tmp_path / "images", 80, 4)
    data = f"folder:{tmp_path / 'images'}"
    recipe = tmp_path / "illama.toml"
    recipe.write_text(RECIPE.format(epochs=1, name="").replace('architecture = ""\n', ""))
    mean = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"}
    illama_deploy.train(recipe=recipe, data=data, out=tmp_path / "run")
    report = illama_deploy.check(
        tmp_path / "run" / "model.safetensors", baseline=tmp_path / "hub", data=data, rounds=20, limit=40,
        out=tmp_path / "report", **mean,
    )  # fmt: skip
    assert len(report.artifacts) == 2
    baseline, other = report.artifacts
    assert baseline["accuracy"]["top1"] != other["accuracy"]["top1"]


def save_splits(folder: Path, count: int, classes: int) -> None:
    """Images of several kinds, some to train with and some held out."""
    for split in ("train", "test"):
        save_kinds(folder / split, count, classes, 32)


def test_train_by_name(cli: Cli, tmp_path: Path) -> None:
    save_splits(tmp_path / "images", 64, 4)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(epochs=3, name="deit3_small_patch16_224") + "\n")
    command = ("train", "--recipe", recipe, "--data", f"folder:{tmp_path / 'images'}", "--out", tmp_path / "run")
    code, _, err = cli(*command)
    assert code == 0, err
    found = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert isinstance(found.config, VitConfig)
    assert (found.config.architecture, found.config.layer_scale) == ("deit3_small_patch16_224", True)
    assert found.classes == tuple(f"kind {i}" for i in range(4))
    again = cli("train", "--checkpoint", found.path, *command[1:5], "--out", tmp_path / "again")
    assert again[0] == 0, again[2]
    made = illama_deploy.qat(
        found.path, bits=4, data=f"folder:{tmp_path / 'images'}", recipe="qat-digits", epochs=1, calib_images=16,
        out=tmp_path / "qat",
    )  # fmt: skip
    assert made.figures


def test_model_on_the_command_line_names_what_is_trained(cli: Cli, tmp_path: Path) -> None:
    save_splits(tmp_path / "images", 16, 2)
    recipe = tmp_path / "recipe.toml"
    lines = RECIPE.format(epochs=1, name="x").replace('architecture = "x"\n', "").splitlines()
    recipe.write_text("\n".join(line for line in lines if not line.startswith(("dim", "depth", "heads"))))
    common = ("--recipe", recipe, "--data", f"folder:{tmp_path / 'images'}", "--out", tmp_path / "run")
    code, _, err = cli("train", "--model", "timm:test_vit", *common)
    assert code == 0, err
    config: Any = read_checkpoint(tmp_path / "run" / "model.safetensors").config
    assert (config.architecture, config.image_size, config.patch_size) == ("test_vit", (32, 32), 8)
    code, _, err = cli("train", "--model", "timm:tset_vit", *common, "--force")
    assert code == 2
    assert "test_vit" in err


@pytest.mark.slow
def test_a_upernet_reads_it(tmp_path: Path) -> None:
    world = _world(_world(tmp_path / "world"), images=3, split="validation")
    recipe = tmp_path / "recipe.toml"
    height, width = CONFIG.image_size
    lines = RECIPE.format(epochs=1, name="vit_small_patch14_reg4_dinov2").replace("depth = 2", "depth = 4")
    lines = lines.replace("image_size = 32", f"image_size = [{height}, {width}]")
    recipe.write_text(lines.replace("patch_size = 8", f"patch_size = {CONFIG.patch_size}\nhead_width = 16"))
    data = f"segmentation:{world}"
    illama_deploy.train(recipe=recipe, data=data, out=tmp_path / "run")
    checkpoint = tmp_path / "run" / "model.safetensors"
    illama_deploy.quantize(checkpoint, bits=8, data=data, calib_images=8, out=tmp_path / "q")
    for target in ("onnx-cpu", "openvino"):
        result = illama_deploy.export(tmp_path / "q", target=target, out=tmp_path / target)
        assert result.proof is not None
        assert not result.proof.missing
        figures = illama_deploy.evaluate(result.model, data=data, reference=tmp_path / "q", limit=4).figures
        assert figures["agreement"] > 99
