"""timm's vision transformers as ExecuTorch programs: what iLLaMA has not, in operators of XNNPACK's one delegate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from illama_deploy.errors import UsageError
from illama_deploy.formats import Format, parse_format
from illama_deploy.model.activations import ACTIVATIONS
from illama_deploy.model.families import build_network
from illama_deploy.model.network import Network
from illama_deploy.model.timm_vits import read_timm
from illama_deploy.model.vit import VitConfig
from illama_deploy.quant import find_sites
from illama_deploy.quant.network import quantize_network
from illama_deploy.rewrites import apply_rewrites, rewrites_for, with_needed_rewrites
from illama_deploy.rounding import nearest
from illama_deploy.targets import TARGETS
from illama_deploy.targets.executorch import lowering
from illama_deploy.targets.executorch.lowering import gemm_names, lower
from illama_deploy.targets.executorch.proof import prove_program
from illama_deploy.targets.executorch.quiet import quiet
from illama_deploy.targets.executorch.runtime import load_method

pytestmark = pytest.mark.slow

pytest.importorskip("executorch")

TARGET = TARGETS["executorch"]
#: One network for each thing that a `Vit` may have; narrower than timm's where these are wide.
NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "embed_dim": 96, "num_heads": 3, "num_classes": 0},
    "deit_tiny_distilled_patch16_224": {"img_size": 64},
    "vit_xsmall_patch16_clip_224": {"img_size": 64, "act_layer": "quick_gelu"},
    "eva02_tiny_patch14_224": {"img_size": 56},
    "eva02_base_patch16_clip_224": {"img_size": 64, "embed_dim": 128, "num_heads": 4},
    "vit_small_patch16_dinov3": {"img_size": 64, "embed_dim": 96, "num_heads": 3},
    "vit_small_patch16_rope_mixed_ape_224": {"img_size": 64, "embed_dim": 96, "num_heads": 3},
    "test_vit2": {"img_size": 64, "act_layer": "gelu_tanh"},
}
#: Nothing but image tokens, without positions; RMSNorms from the start.
BARE = VitConfig(
    "bare",
    dim=48,
    depth=1,
    heads=2,
    image_size=(16, 24),
    patch_size=8,
    channels=1,
    classes=7,
    hidden=96,
    others=0,
    positions=False,
    rotary="shared",
    norm="rms",
    activation="gelu_tanh",
    gated=True,
    attention_norm=True,
    ffn_norm=True,
    pool="mean",
)
#: Compared GEMM by GEMM, and by logits and kernels; each lowering takes seconds.
WATCHED = ("deit_tiny_distilled_patch16_224", "eva02_base_patch16_clip_224")
PROVEN = ("vit_xsmall_patch16_clip_224", "vit_small_patch16_rope_mixed_ape_224", "test_vit2")
#: Of integers: a rounding that falls the other way is a whole step of one token; wrong kernels give 20 dB and less.
LEAST_DB = 35
REWRITES = ("fold_norms", "fold_attention_scale", "class_token_last_block", "rotate_qk_online", "rotate_swiglu_online")


@torch.no_grad()
def _perturbed(model: nn.Module) -> nn.Module:
    """With values at which every parameter counts."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.05 if parameter.squeeze().ndim > 1 else 0.3))
    return model.eval()


def _networks(name: str) -> tuple[nn.Module, Network]:
    """A network of timm's, and ours of the same values."""
    theirs = _perturbed(timm.create_model(name, **{"num_classes": 7, "depth": 1, **NETWORKS[name]}))
    reading = read_timm(name, theirs)
    ours = build_network(reading.config)
    ours.load_state_dict(reading.translate(theirs.state_dict()))
    return theirs, ours.eval()


def _images(network: Network) -> Tensor:
    return torch.randn(4, network.config.channels, *network.config.image_size)


@torch.no_grad()
def _quantized(network: Network, images: Tensor) -> tuple[Network, dict[str, Format]]:
    """W8A8 on the ranges of some images, with online rotations where they fit."""
    network = with_needed_rewrites(network)
    apply_rewrites(network, rewrites_for(REWRITES, network))
    sites = [site for site in find_sites(network) if not site.is_product]
    thresholds: dict[str, float] = {}
    for site in sites:
        key = f"{site.name}/input"

        def keep(module: nn.Module, inputs: tuple[Tensor], key: str = key) -> None:
            thresholds[key] = float(inputs[0].abs().max())

        network.get_submodule(site.name).register_forward_pre_hook(keep)
    network(images)
    formats = {site.name: parse_format("W8A8") for site in sites}
    quantize_network(network, sites, thresholds, formats, lambda w, kind, group: nearest(w, kind, group=group))
    return network, formats


def _run(network: Network, images: Tensor, folder: Path, formats: dict[str, Format]) -> np.ndarray:
    """What a program gives, whose operators have been read back from it."""
    path = folder / "model.pte"
    path.write_bytes(lower(network)[0])
    prove_program(path, gemm_names(network), formats)
    return TARGET.load(path)(images.numpy())[0]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_float_programs_give_timms_logits(name: str, tmp_path: Path) -> None:
    theirs, ours = _networks(name)
    images = _images(ours)
    wanted = theirs(images).numpy()
    assert np.abs(_run(ours, images, tmp_path, {}) - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", WATCHED)
def test_integers_agree_with_torch(name: str) -> None:
    _, network = _networks(name)
    network, _ = _quantized(network, _images(network))
    parity = TARGET.parity(network)
    names = [layer.name for layer in parity.layers]
    assert set(names) - {"logits"} == {site.name for site in find_sites(_networks(name)[1]) if not site.is_product}
    assert names[-1] == ("logits" if len(network.outlets) == 2 else "head")
    assert min(layer.sqnr_db for layer in parity.layers) > LEAST_DB, str(parity)


@torch.no_grad()
def test_image_tokens_alone(tmp_path: Path) -> None:
    network = _perturbed(build_network(BARE))
    assert isinstance(network, Network)
    angles = torch.rand(BARE.tokens, BARE.head_dim // 2) * 3
    network.rotary.cos.copy_(angles.cos())  # type: ignore[union-attr, operator]
    network.rotary.sin.copy_(angles.sin())  # type: ignore[union-attr, operator]
    images = _images(network)
    wanted = network(images).numpy()
    assert np.abs(_run(network, images, tmp_path, {}) - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", PROVEN)
@torch.no_grad()
def test_every_site_runs_on_integers(name: str, tmp_path: Path) -> None:
    _, network = _networks(name)
    images = _images(network)
    network, formats = _quantized(network, images)
    wanted = network(images).numpy()
    found = _run(network, images, tmp_path, formats)
    assert -10 * np.log10(np.square(found - wanted).sum() / np.square(wanted).sum()) > LEAST_DB


def test_activations(tmp_path: Path) -> None:
    """The delegate's GELU is that of erf, even where the one of tanh is asked for: 5e-4 apart."""

    class All(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(lowering.SPELLED[name](x) for name in ACTIVATIONS)

    inputs = torch.cat((torch.linspace(-20, 20, 40001), torch.tensor([-1e6, -300.0, 0.0, 300.0, 1e6])))
    path = tmp_path / "activations.pte"
    with quiet():
        path.write_bytes(lowering._compile(All(), inputs[None]))
    for name, found in zip(ACTIVATIONS, load_method(path)(inputs.numpy()[None]), strict=True):
        wanted = ACTIVATIONS[name](inputs.double())
        error = (torch.from_numpy(found[0, 0]).double() - wanted).abs() / inputs.abs().clamp(min=1.0)
        assert float(error.max()) < 1e-6, name


def test_what_it_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = replace(BARE, depth=4, image_size=(16, 32), head_width=16)
    with pytest.raises(UsageError, match="classifiers of whole images"):
        lower(build_network(pixels))
    monkeypatch.delitem(lowering.SPELLED, BARE.activation)
    with pytest.raises(UsageError, match="no operators for the activation gelu_tanh"):
        lower(build_network(BARE))
