"""The network, against the authors' logits and against its own definition written the long way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from illama_deploy import load_checkpoint
from illama_deploy.model import Illama, IllamaConfig, RMSNorm
from illama_deploy.model.attention import apply_rope, rope_table
from illama_deploy.model.illama import CausalAttention, swiglu_hidden
from illama_deploy.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SMALL = IllamaConfig(dim=64, depth=2, heads=2, image_size=(16, 24), patch_size=8, channels=3, classes=5, hidden=32)


def _randomised(config: IllamaConfig, seed: int = 0) -> Illama:
    torch.manual_seed(seed)
    model = Illama(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.slow
def test_golden_logits(cifar_checkpoint: Path, cifar_golden: Path) -> None:
    golden = np.load(cifar_golden)
    pixels = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        logits = load_checkpoint(cifar_checkpoint)((pixels - mean) / std)
    assert np.abs(logits.numpy() - golden["logits"]).max() <= 1e-4


@pytest.mark.parametrize(("name", "millions"), [("tiny", 5.70), ("small", 22.02), ("base", 86.50), ("large", 310.4)])
def test_published_geometries(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"illama_{name}")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(("dim", "hidden"), [(192, 512), (384, 1024), (768, 2048), (1024, 2816)])
def test_swiglu_width(dim: int, hidden: int) -> None:
    assert swiglu_hidden(dim) == hidden


def test_any_size_patch_channels_classes() -> None:
    model = timm.create_model("illama_tiny", img_size=(32, 64), patch_size=16, in_chans=1, num_classes=3)
    assert model(torch.zeros(2, 1, 32, 64)).shape == (2, 3)


def test_rope_turns_adjacent_pairs_as_complex_numbers() -> None:
    cos, sin = rope_table(5, 8)
    x = torch.randn(2, 3, 5, 8)
    angles = torch.outer(torch.arange(5.0), 10000.0 ** (-torch.arange(0, 8, 2) / 8))
    expected = torch.view_as_complex(x.view(2, 3, 5, 4, 2)) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(apply_rope(x, cos, sin), torch.view_as_real(expected).flatten(-2))


def test_gradient_of_rope() -> None:
    cos, sin = (table.double() for table in rope_table(5, 8))
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply_rope(x, cos, sin), x)


def test_mask_multiplies_after_softmax_and_is_not_renormalised() -> None:
    torch.manual_seed(0)
    attention = CausalAttention(SMALL)
    x = torch.randn(1, SMALL.tokens, 64)
    captured: list[Tensor] = []
    attention.pv.register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    attention(x)
    sums = captured[0].sum(-1)
    assert (captured[0].triu(1) == 0).all()
    assert (sums[..., :-1] < 0.999).any()
    torch.testing.assert_close(sums[..., -1], torch.ones_like(sums[..., -1]))


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_soft_mask_lets_its_share_through(ratio: float) -> None:
    model = _randomised(SMALL)
    maps: list[Tensor] = []
    model.blocks[0].attn.pv.register_forward_pre_hook(lambda module, args: maps.append(args[0]))
    x = torch.randn(1, 3, 16, 24)
    for r in (1.0, ratio):
        model.set_soft_mask(r)
        model(x)
    everything, masked = maps
    torch.testing.assert_close(everything.sum(-1), torch.ones_like(everything.sum(-1)))
    torch.testing.assert_close(masked, everything.tril() + ratio * everything.triu(1))


def test_rmsnorm_is_float32_inside() -> None:
    norm = RMSNorm(8).to(torch.float16)
    x = torch.full((1, 8), 300.0, dtype=torch.float16)  # its square overflows half precision
    torch.testing.assert_close(norm(x), torch.ones(1, 8, dtype=torch.float16))


def test_trains() -> None:
    torch.manual_seed(0)
    model = Illama(SMALL, drop_path=0.1).train()
    model.set_soft_mask(0.3)
    images, labels = torch.randn(8, 3, 16, 24), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "change", [{"heads": 3}, {"image_size": (17, 24)}, {"dim": 62, "heads": 2, "image_size": (0, 8)}]
)
def test_impossible_geometry(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        IllamaConfig(**{"dim": 64, "depth": 1, "heads": 2, "image_size": (16, 16), "patch_size": 8, **change})  # type: ignore[arg-type]


# --- timm's interface


def test_timm_reads_what_the_network_takes() -> None:
    model = timm.create_model("illama_tiny", img_size=32, patch_size=4, in_chans=1, num_classes=7)
    assert isinstance(model.pretrained_cfg, dict) and model.default_cfg == model.pretrained_cfg
    asked = timm.data.resolve_model_data_config(model)
    assert (asked["input_size"], asked["crop_pct"], asked["interpolation"]) == ((1, 32, 32), 0.875, "bicubic")
    assert len(asked["mean"]) == 1
    overlay = timm.create_model("illama_tiny", pretrained_cfg_overlay={"crop_pct": 1.0}, img_size=32)
    assert overlay.pretrained_cfg["crop_pct"] == 1.0
    loaded = timm.data.resolve_model_data_config(load_checkpoint())
    assert (loaded["input_size"], loaded["mean"], loaded["crop_pct"]) == ((1, 32, 32), (0.3,), 1.0)
    timm.data.create_transform(**loaded)


@torch.no_grad()
@pytest.mark.parametrize("class_token", ["last", "first"])
def test_features_and_head_are_the_network(class_token: str) -> None:
    model, images = _randomised(replace(SMALL, class_token=class_token)), torch.randn(2, 3, 16, 24)
    features = model.forward_features(images)
    assert features.shape == (2, SMALL.tokens, 64)
    torch.testing.assert_close(model.forward_head(features), model(images))
    token = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(token), model(images))
    assert (model.num_features, model.embed_dim, model.head_hidden_size) == (64, 64, 64)


@torch.no_grad()
def test_another_classifier_and_none() -> None:
    model, images = timm.create_model("illama_tiny", img_size=32, num_classes=0), torch.randn(2, 3, 32, 32)
    token = model.eval()(images)
    assert token.shape == (2, 192)
    torch.testing.assert_close(token, model.forward_head(model.forward_features(images), pre_logits=True))
    model.reset_classifier(5)
    assert (model.num_classes, model.config.classes, model(images).shape) == (5, 5, (2, 5))
    assert not model.get_classifier().training
    torch.testing.assert_close(model.get_classifier()(token), model(images))
    model.double().reset_classifier(3, "token")
    assert model(images.double()).dtype == torch.float64
    model.reset_classifier(0)
    assert model(images.double()).shape == (2, 192)
    with pytest.raises(ValueError, match="pooled"):
        model.reset_classifier(3, "avg")


@torch.no_grad()
def test_a_upernet_has_the_same_interface() -> None:
    config = replace(SMALL, depth=4, image_size=(16, 32), head_width=8)
    model, images = Illama(config).eval(), torch.randn(1, 3, 16, 32)
    features = model.forward_features(images)
    assert [tuple(level.shape) for level in features] == [(1, 8, 64)] * 4
    torch.testing.assert_close(model.forward_head(features), model(images))
    model.reset_classifier(2)
    assert model(images).shape == (1, 2, 16, 32)
