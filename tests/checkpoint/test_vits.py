"""Checkpoints of timm's networks: hub folders, training files, bare tensors with a name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from illama_deploy.checkpoint import Checkpoint, read_checkpoint
from illama_deploy.errors import CheckpointError, DeployError, UsageError
from illama_deploy.model.vit import VitConfig
from illama_deploy.workspace import identity

from ..networks import TINY, hub_folder, small

#: One of each class, and one without a class token, without a position embedding, without a classifier.
NAMES = ("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_base_patch16_gap_224", "vit_small_patch16_dinov3")


def same(checkpoint: Checkpoint, model: nn.Module) -> None:
    """The same logits, but for the order of additions."""
    images = torch.randn(2, checkpoint.config.channels, *checkpoint.config.image_size)
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.build()(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_hub_folder_says_everything(tmp_path: Path, name: str) -> None:
    prepared = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "crop_pct": 0.9, "interpolation": "bilinear"}
    model = hub_folder(tmp_path / "hub", name, prepared=prepared)
    found = read_checkpoint(tmp_path / "hub")
    same(found, model)
    assert found.classes == tuple(f"kind {i}" for i in range(10))
    assert (found.preprocessing.mean, found.preprocessing.crop) == ((0.4, 0.5, 0.6), 0.9)
    assert found.preprocessing.interpolation == "bilinear"
    assert found.preprocessing.size == (32, 32)
    assert found.sha256 == identity(tmp_path / "hub")


def test_hub_folder_of_pickled_tensors(tmp_path: Path) -> None:
    model = hub_folder(tmp_path, NAMES[0])
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    same(read_checkpoint(tmp_path), model)


def shard(folder: Path) -> list[Path]:
    """Cut a folder's weights into two files with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(state)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
    for file, half in zip(files, halves, strict=True):
        save_file({key: state[key] for key in half}, folder / file)
    index = {key: file for file, half in zip(files, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return [folder / file for file in files]


def test_sharded_weights(tmp_path: Path) -> None:
    model = hub_folder(tmp_path, NAMES[1])
    shard(tmp_path)
    same(read_checkpoint(tmp_path), model)


def test_features_come_without_a_classifier(tmp_path: Path) -> None:
    model = hub_folder(tmp_path / "bare", NAMES[0], classes=0)
    found = read_checkpoint(tmp_path / "bare")
    same(found, model)
    assert isinstance(found.config, VitConfig)
    assert found.config.features
    assert found.classes == ()


def test_classifier_can_be_left_away(tmp_path: Path) -> None:
    model: Any = hub_folder(tmp_path, NAMES[0])
    found = read_checkpoint(tmp_path, num_classes=0)
    assert found.classes == ()
    model.reset_classifier(0)
    same(found, model)


def save_training(path: Path, kind: str, name: str) -> nn.Module:
    """What a training script leaves, and the network whose averaged weights it has."""
    model = small(name)
    averaged = {key: tensor + 0.01 for key, tensor in model.state_dict().items()}
    args = argparse.Namespace(model=name, mean=[0.1, 0.2, 0.3], std=None, crop_pct=0.95, img_size=32)
    content: dict[str, Any] = {"epoch": 3, "optimizer": {"state": {}}, "args": args}
    if kind == "timm":
        content |= {"arch": name, "state_dict": model.state_dict(), "state_dict_ema": averaged, "version": 2}
    else:
        content |= {"model": model.state_dict(), "model_ema": averaged, "scaler": {}}
    torch.save(content, path)
    return model


@pytest.mark.parametrize("kind", ["timm", "deit"])
def test_training_scripts_name_their_network(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model
    # What the script trained has its default geometry; tests take a small one.
    monkeypatch.setattr(timm, "create_model", lambda name, **options: real(name, **{**TINY, **options}))
    model = save_training(tmp_path / "last.pth", kind, "deit_tiny_patch16_224")
    found = read_checkpoint(tmp_path / "last.pth")
    same(found, model)
    assert found.preprocessing.mean == (0.1, 0.2, 0.3)
    assert found.preprocessing.std == (0.229, 0.224, 0.225)
    assert found.preprocessing.crop == 0.95
    averaged = read_checkpoint(tmp_path / "last.pth", ema=True)
    assert float(averaged.state["head.bias"][0] - found.state["head.bias"][0]) == pytest.approx(0.01, abs=1e-6)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Tensors of a network at its own geometry, and no word about it."""
    path = tmp_path / "bare.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict(), path)
    return path


def test_bare_tensors_take_a_name(bare: Path) -> None:
    found = read_checkpoint(bare, model="timm:vit_tiny_patch16_224.augreg_in21k")
    assert (found.config.classes, found.config.heads) == (7, 3)


@pytest.mark.slow
def test_bare_tensors_without_a_name(bare: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Its tensors fit .*deit_tiny_patch16_224") as caught:
        read_checkpoint(bare)
    assert "model=" in str(caught.value.hint)


def test_another_image_size_is_timms_own(bare: Path) -> None:
    found = read_checkpoint(bare, model="vit_tiny_patch16_224", image_size=(64, 96))
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=(64, 96)).eval()
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    model.load_state_dict(convert(load_file(bare), model))
    same(found, model)
    assert found.preprocessing.size == (64, 96)


def test_position_embedding_says_the_trained_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=64).eval()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    found = read_checkpoint(tmp_path / "a.safetensors", model="vit_tiny_patch16_224")
    assert found.config.image_size == (64, 64)
    assert "64×64 px" in caplog.text
    same(found, model)


def test_rotary_tables_are_those_of_the_new_size(tmp_path: Path) -> None:
    hub_folder(tmp_path, "vit_small_patch16_dinov3", patch_size=16, img_size=64)
    found = read_checkpoint(tmp_path, image_size=96)
    larger = small("vit_small_patch16_dinov3", patch_size=16, img_size=96)
    same(found, larger)


# --- What does not go


def refuse(path: Path, *says: str, **options: Any) -> DeployError:
    with pytest.raises((CheckpointError, UsageError)) as caught:
        read_checkpoint(path, **options)
    for text in says:
        assert text in f"{caught.value.what} {caught.value.hint}"
    assert caught.value.hint
    return caught.value


def test_first_misfit_is_named_with_both_shapes(tmp_path: Path) -> None:
    hub_folder(tmp_path, NAMES[0])
    state = load_file(tmp_path / "model.safetensors")
    state["blocks.1.mlp.fc1.weight"] = torch.zeros(7, 64)
    save_file(state, tmp_path / "model.safetensors")
    refuse(tmp_path, "blocks.1.mlp.fc1.weight is [7, 64], and [256, 64] is needed")


@pytest.mark.parametrize("key", ["blocks.1.norm2.bias", "pos_embed"])
def test_missing_tensor(tmp_path: Path, key: str) -> None:
    hub_folder(tmp_path, NAMES[0])
    state = load_file(tmp_path / "model.safetensors")
    del state[key]
    save_file(state, tmp_path / "model.safetensors")
    refuse(tmp_path, f"{key} [", "is missing")


def test_weights_of_another_class(bare: Path) -> None:
    refuse(bare, "do not fit the architecture eva02_tiny_patch14_224", model="eva02_tiny_patch14_224")


def test_unknown_name(bare: Path) -> None:
    refuse(bare, "'vit_tinny_patch16_224'", "vit_tiny_patch16_224", model="vit_tinny_patch16_224")


def test_another_name_than_the_files(tmp_path: Path) -> None:
    hub_folder(tmp_path, NAMES[0])
    refuse(tmp_path, "vit_tiny_patch16_224", "deit_tiny_patch16_224", model="deit_tiny_patch16_224")


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    table = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"auto_map": {"AutoModel": "net.py"}}, "names code to run (auto_map)", id="code"),
        pytest.param(
            {"architecture": None, "architectures": ["ViTForImageClassification"]},
            "ViTForImageClassification of another library",
            id="transformers",
        ),
        pytest.param({"architecture": None, "model_type": "vit"}, "model type 'vit'", id="model_type"),
        pytest.param({"architecture": None}, "does not say which architecture", id="nothing"),
        pytest.param({"architecture": "convnext_tiny"}, "no architecture 'convnext_tiny'", id="another"),
        pytest.param({"num_classes": 12, "label_names": None}, "says that it has 12 classes", id="classes"),
        pytest.param({"label_names": ["a"]}, "it names 1 classes", id="names"),
        pytest.param({"num_classes": "many"}, "num_classes is many", id="number"),
        pytest.param(
            {"model_args": {"act_layer": "os.system"}}, "its argument 'act_layer' is not covered", id="argument"
        ),
        pytest.param({"model_args": {"depth": 10**9}}, "its argument depth is 1000000000", id="depth"),
        pytest.param({"model_args": {"embed_dim": -3}}, "its argument embed_dim is -3", id="negative"),
        pytest.param({"model_args": {"num_heads": 7}}, "timm refuses to make it", id="heads"),
        pytest.param({"model_args": ["a"]}, "model_args is no table", id="arguments"),
        pytest.param(
            {"pretrained_cfg": {"mean": ["x", 1, 2], "std": [1, 1, 1]}}, "of its images cannot be used", id="mean"
        ),
        pytest.param({"pretrained_cfg": {"crop_pct": 7}}, "of its images cannot be used", id="crop"),
        pytest.param({"global_pool": "map", "model_args": {**TINY, "global_pool": "map"}}, "attention", id="pooling"),
    ],
)
def test_configuration_that_cannot_be(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    hub_folder(tmp_path, NAMES[0])
    rewrite(tmp_path, **changes)
    refuse(tmp_path, says)


@pytest.mark.parametrize("text", ["{", "[]", "7", "[" * 100_000, '{"architecture": 7}', "\xff"])
def test_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    hub_folder(tmp_path, NAMES[0])
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    refuse(tmp_path, "config.json")


def test_missing_weights(tmp_path: Path) -> None:
    hub_folder(tmp_path, NAMES[0])
    (tmp_path / "model.safetensors").unlink()
    refuse(tmp_path, "no weights")


def test_missing_shard(tmp_path: Path) -> None:
    hub_folder(tmp_path, NAMES[0])
    shard(tmp_path)[1].unlink()
    refuse(tmp_path, "1 of the 2 files of its weights are missing: model-00002-of-00002.safetensors")


def test_half_a_shard(tmp_path: Path) -> None:
    hub_folder(tmp_path, NAMES[0])
    file = shard(tmp_path)[1]
    file.write_bytes(file.read_bytes()[:-1000])
    refuse(tmp_path, "Not a readable checkpoint")


def test_shard_without_some_of_its_tensors(tmp_path: Path) -> None:
    hub_folder(tmp_path, NAMES[0])
    file = shard(tmp_path)[1]
    save_file({key: x for key, x in load_file(file).items() if "norm" not in key}, file)
    refuse(tmp_path, "tensors that the index names are in none of its files")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "x.sh", ".."])
def test_index_names_no_other_place(tmp_path: Path, name: str) -> None:
    hub_folder(tmp_path, NAMES[0])
    shard(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"head.bias": name}}))
    refuse(tmp_path, "is no name of a file beside it")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_base_patch16_rpn_224", "ResPostBlock"),
        ("eva02_enormous_patch14_clip_224", "EvaBlockPostNorm"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock"),
        ("vit_base_patch16_sapiens2", "LayerScale"),
        ("vit_base_patch16_siglip_224", "pooled by attention"),
    ],
)
def test_networks_that_are_not_covered(bare: Path, name: str, says: str) -> None:
    refuse(bare, f"{name} is not covered", model=name)


@pytest.mark.parametrize("size", [100, (224, 230), 8])
def test_image_size_that_is_no_multiple(bare: Path, size: Any) -> None:
    refuse(bare, "no multiple of the patch size 16", model="vit_tiny_patch16_224", image_size=size)


def test_classes_that_it_does_not_have(bare: Path) -> None:
    refuse(bare, "has 7 classes, and 9 are asked for", model="vit_tiny_patch16_224", num_classes=9)


@pytest.mark.parametrize(("key", "value"), [("heads", 4), ("patch_size", 8)])
def test_what_the_name_says_already(bare: Path, key: str, value: int) -> None:
    refuse(bare, f"{value} is asked for", model="vit_tiny_patch16_224", **{key: value})
