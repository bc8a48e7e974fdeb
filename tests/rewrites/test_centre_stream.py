"""A LayerNorm network becomes an RMSNorm network, the same function in float64: then all else is exact for it, too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from illama_deploy.model import Illama, IllamaConfig, RMSNorm
from illama_deploy.model.families import build_network
from illama_deploy.model.network import Network
from illama_deploy.model.vit import VitConfig
from illama_deploy.rewrites import REWRITES, apply_rewrites, restructure, rewrites_for

from ..vits import SPREAD, images_for, made, network_of
from .test_rewrites import _observed

#: Sizes whose online rotations are exact in float32, as they are kept: 4 and 8 are the roots of 16 and 64.
SIZES = {"embed_dim": 64, "num_heads": 4, "mlp_ratio": 4}
FOLDS = ("fold_layer_scales", "centre_stream", "fold_norms", "fold_attention_scale", "class_token_last_block")
ROTATIONS = ("rotate_residual", "rotate_values", "rotate_qk_online", "rotate_swiglu_online")
BALANCES = tuple(name for name, rewrite in REWRITES.items() if rewrite.balance is not None)
EXACT = 1e-9

ILLAMA: dict[str, Any] = {
    "dim": 64,
    "depth": 2,
    "heads": 4,
    "image_size": (32, 32),
    "patch_size": 8,
    "classes": 5,
    "hidden": 128,
}
ILLAMAS: dict[str, dict[str, Any]] = {
    "iLLaMA, LayerNorm": {"norm": "layer"},
    "iLLaMA, GELU": {"ffn": "gelu"},
    "iLLaMA, both": {"norm": "layer", "ffn": "gelu"},
    "iLLaMA, nearly a ViT": {"norm": "layer", "ffn": "gelu", "mask": "none", "class_token": "first"},
    "iLLaMA of pixels, both": {"norm": "layer", "ffn": "gelu", "head_width": 8, "depth": 4},
}
PIXELS = VitConfig("any", 64, 4, 4, (32, 32), 8, 3, 5, 128, head_width=8, others=2, layer_scale=True)


def _randomised(model: Network) -> Network:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return model.eval()


def _network(case: str) -> tuple[Any, Tensor]:
    """A network in float64, none of whose writers has the mean 0, and images."""
    if case in SPREAD:
        name, changes = SPREAD[case]
        model = made(name, (2, 3), **SIZES, **changes).double()
        return network_of(name, model), images_for(model).double()
    config = IllamaConfig(**{**ILLAMA, **ILLAMAS[case]}) if case in ILLAMAS else PIXELS
    images = torch.randn(2, 3, *config.image_size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return _randomised(build_network(config)).double(), images


cases = pytest.mark.parametrize("case", [*SPREAD, *ILLAMAS, "a ViT of pixels"])


def _departure(model: Any, images: Tensor, names: tuple[str, ...]) -> float:
    """Largest change of a logit by rewrites, in place."""
    before = model(images)
    assert before.abs().max() > 0.1
    # What is observed is in float32, as a network is where it is quantized.
    apply_rewrites(model, names, lambda m: _observed(copy.deepcopy(m).float(), images.float()))
    return float((model(images) - before).abs().max())


@cases
@torch.no_grad()
def test_the_function_stays(case: str) -> None:
    model, images = _network(case)
    assert _departure(model, images, rewrites_for(FOLDS, model)) < EXACT
    for name in ROTATIONS:
        assert _departure(model, images, (name,)) < EXACT, name
    for name in BALANCES:
        assert _departure(model, images, (name,)) < EXACT, name


@pytest.mark.parametrize("name", [*FOLDS, *ROTATIONS, *BALANCES])
@pytest.mark.parametrize("case", ["LayerScale and registers", "gated, inner norms, rotary", "entry norm, quick GELU"])
@torch.no_grad()
def test_each_alone_behind_what_is_needed(case: str, name: str) -> None:
    model, images = _network(case)
    assert _departure(model, images, rewrites_for((name,), model)) < EXACT


@cases
@torch.no_grad()
def test_the_stream_has_mean_zero_and_no_layer_norm(case: str) -> None:
    model, images = _network(case)
    apply_rewrites(model, rewrites_for((), model))
    structure = model.structure
    entry = structure.embedding.entry
    for read in (*structure.reads, *([] if entry is None else [entry])):
        assert isinstance(model.get_submodule(read.norm), RMSNorm), read.norm
    inner = {read.norm for block in structure.blocks for read in block.inner_reads}
    left = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert left == (inner if _norms(case) == "layer" else set())
    assert not any("gamma" in name for name, _ in model.named_parameters())
    if _norms(case) == "layer":
        for x in (model.embed(images), *model.stream(images)):
            assert x.abs().max() > 0.1
            assert x.mean(-1).abs().max() < 1e-12


def _norms(case: str) -> str:
    if case in ILLAMAS:
        return str(ILLAMAS[case].get("norm", "rms"))
    return "rms" if case.startswith("RMSNorm") else "layer"


@cases
def test_twice_is_once(case: str) -> None:
    model, _ = _network(case)
    apply_rewrites(model, rewrites_for(FOLDS, model))
    before, shown = copy.deepcopy(model.state_dict()), str(model)
    assert not {"fold_layer_scales", "centre_stream"} & set(rewrites_for((), model))
    apply_rewrites(model, FOLDS)
    assert str(model) == shown
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@cases
@torch.no_grad()
def test_structure_alone_takes_the_values(case: str) -> None:
    """As a quantized directory is loaded: into a network made anew, whose values are not known before."""
    rewritten, images = _network(case)
    names = rewrites_for((*FOLDS, *ROTATIONS), rewritten)
    loaded = build_network(rewritten.config).eval().double()
    apply_rewrites(rewritten, names)
    restructure(loaded, names)
    assert str(loaded) == str(rewritten)
    shapes = [{key: tensor.shape for key, tensor in m.state_dict().items()} for m in (loaded, rewritten)]
    assert shapes[0] == shapes[1]
    loaded.load_state_dict(rewritten.state_dict())
    assert torch.equal(loaded(images), rewritten(images))


@cases
def test_structure_needs_no_memory(case: str) -> None:
    rewritten, _ = _network(case)
    with torch.device("meta"):
        empty = build_network(rewritten.config)
    names = rewrites_for(FOLDS, empty)
    assert names == rewrites_for(FOLDS, rewritten)
    with torch.device("meta"):
        restructure(empty, names)
    apply_rewrites(rewritten, names)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert {key: tensor.shape for key, tensor in empty.state_dict().items()} == {
        key: tensor.shape for key, tensor in rewritten.state_dict().items()
    }


@cases
def test_norms_fold_to_ones_wherever_they_stand(case: str) -> None:
    model, _ = _network(case)
    apply_rewrites(model, rewrites_for(("fold_norms",), model))
    for read in (*model.structure.reads, *model.structure.other_reads):
        left = dict(model.get_submodule(read.norm).named_parameters())
        assert (left.pop("weight") == 1).all(), read.norm
        assert all((bias == 0).all() for bias in left.values()), read.norm


@torch.no_grad()
def test_a_loud_mean_costs_nothing() -> None:
    """What a LayerNorm takes away anyhow is gone; in float32 it would drown the rest."""
    model, images = _network("class token")
    expected = model(images)
    model.pos_embed.add_(1000.0)
    model.blocks[0].mlp.fc2.bias.sub_(500.0)
    apply_rewrites(model, rewrites_for((), model))
    torch.testing.assert_close(model(images), expected, rtol=0, atol=EXACT)
    torch.testing.assert_close(model.float()(images.float()).double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_float32_stays_near() -> None:
    for case in SPREAD:
        model, images = _network(case)
        expected = model(images)
        model.float()
        apply_rewrites(model, rewrites_for((*FOLDS, *ROTATIONS), model))
        torch.testing.assert_close(model(images.float()).double(), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_two_tokens_ask_where_two_are_read() -> None:
    model, images = _network("both heads")
    apply_rewrites(model, rewrites_for(FOLDS, model))
    assert [x.shape[1] for x in model.stream(images)] == [8, 2]
    assert [x.shape[1] for x in _network("both heads")[0].stream(images)] == [8, 8]


@pytest.mark.parametrize("case", ["mean of norms, no class token", "norm of the mean", "a ViT of pixels"])
def test_all_tokens_ask_where_the_image_is_read(case: str) -> None:
    model, images = _network(case)
    assert "class_token_last_block" not in rewrites_for(FOLDS, model)
    apply_rewrites(model, FOLDS)
    assert {x.shape[1] for x in model.stream(images)} == {model.config.tokens}


def test_a_layer_without_bias_gets_one() -> None:
    """iLLaMA's SwiGLU has none; what its LayerNorms add has to go somewhere."""
    model = Illama(IllamaConfig(**ILLAMA, norm="layer"))
    assert model.blocks[0].mlp.fc1.bias is None
    apply_rewrites(model, rewrites_for((), model))
    assert model.blocks[0].mlp.fc1.bias is not None and model.blocks[0].mlp.fc3.bias is not None
    assert model.blocks[0].mlp.fc2.bias is None
