"""timm's vision transformers, read: the network here gives timm's logits, and what is not covered says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention, GluMlp, LayerNorm, Mlp, PatchEmbed, RmsNorm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from illama_deploy.model.families import geometry_from, geometry_of
from illama_deploy.model.timm_vits import (
    Reading,
    UnsupportedError,
    find_architecture,
    nearest_names,
    read_timm,
)
from illama_deploy.model.vit import VitConfig

from ..vits import NARROW, images_for, made, network_of

#: Networks that timm names.
ARCHITECTURES = (
    # VisionTransformer
    "test_vit",
    "test_vit2",
    "test_vit4",  # RMSNorm
    "vit_tiny_patch16_224",
    "vit_small_patch8_224",  # features
    "vit_small_patch32_224",
    "vit_small_patch16_36x1_224",
    "vit_base_patch16_plus_240",
    "flexivit_small",
    "vit_xsmall_patch16_clip_224",  # a norm in front
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch16_gap_224",  # no class token, the mean of norms
    "vit_medium_patch16_gap_240",
    "vit_base_patch32_siglip_gap_256",  # GELU by tanh
    "vit_base_patch16_siglip_gap_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_reg4_dinov2",  # a gated FFN, packed
    "vit_base_patch14_reg1_tipsv2",
    "vit_wee_patch16_reg1_gap_256",  # the norm of the mean
    "vit_little_patch16_reg4_gap_256",
    "vit_so150m_patch16_reg4_gap_256",  # the mean of norms beside registers
    "eva_large_patch14_196",
    "beit3_base_patch16_224",  # norms inside both branches
    "deit_tiny_patch16_224",
    "deit3_small_patch16_224",  # LayerScale
    "deit_tiny_distilled_patch16_224",
    # Eva
    "eva_giant_patch14_224",
    "eva_giant_patch14_clip_224",
    "eva02_tiny_patch14_224",
    "eva02_tiny_patch14_336",
    "eva02_base_patch14_224",  # queries, keys and values apart; a gated FFN in two layers, and a norm in it
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_ape_224",
    "vit_small_patch16_rope_mixed_224",
    "vit_small_patch16_rope_mixed_ape_224",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3",  # a gated FFN in two layers, none of them normed
    "vit_small_patch16_lingbot",
)
#: What timm's arguments make of `VisionTransformer` and `Eva` beside them.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "the gate is the second half": ("vit_tiny_patch16_224", {"mlp_layer": GluMlp}),
    "no biases": ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
    "no positions": ("vit_tiny_patch16_224", {"pos_embed": "none"}),
    "nothing but image tokens and rotary": (
        "vit_small_patch16_rope_224",
        {"class_token": False, "global_pool": "avg", "use_abs_pos_emb": False},
    ),
    "the norm behind token pooling": ("vit_tiny_patch16_224", {"fc_norm": True}),
    "the mean of norms beside a class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "the class token has no position": ("vit_tiny_patch16_224", {"no_embed_class": True}),
    "registers alone": ("vit_tiny_patch16_224", {"class_token": False, "reg_tokens": 2, "global_pool": "avg"}),
    "registers with positions": ("vit_tiny_patch16_224", {"reg_tokens": 2}),
    "any image size": ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    "grey images, seven classes": ("vit_tiny_patch16_224", {"in_chans": 1, "num_classes": 7}),
    "features": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "features of both tokens": ("deit_tiny_distilled_patch16_224", {"num_classes": 0}),
    "registers, not used": ("deit_tiny_distilled_patch16_224", {"reg_tokens": 3}),
    "SiLU": ("vit_tiny_patch16_224", {"act_layer": "silu"}),
    "GELU by tanh": ("vit_tiny_patch16_224", {"act_layer": partial(nn.GELU, approximate="tanh")}),
    "RMSNorm, in front too": ("vit_tiny_patch16_224", {"norm_layer": RmsNorm, "pre_norm": True}),
    "rotary halves": ("eva02_tiny_patch14_224", {"rope_rotate_half": True, "attn_type": "rope"}),
    "rotary of any image size": ("eva02_tiny_patch14_224", {"dynamic_img_size": True}),
    "queries, keys and values apart": ("vit_small_patch16_rope_224", {"qkv_fused": False, "attn_type": "rope"}),
    "no bias of queries and values": ("eva02_tiny_patch14_224", {"qkv_bias": False}),
    "one table of a known size": ("vit_small_patch16_dinov3", {"dynamic_img_size": False}),
    "turned columns first": ("vit_small_patch16_rope_224", {"rope_grid_indexing": "xy"}),
    "a norm in front of Eva": ("vit_small_patch16_rope_224", {"use_pre_transformer_norm": True}),
    "Eva's class token has no position": ("vit_small_patch16_rope_ape_224", {"no_embed_class": True}),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ARCHITECTURES} | VARIANTS


@pytest.mark.parametrize("grid", [(2, 2), (4, 3)], ids=["2x2", "4x3"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_timm(case: str, grid: tuple[int, int]) -> None:
    name, changes = CASES[case]
    model = made(name, grid, **changes)
    x = images_for(model)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        model.to(dtype)
        given = x.to(dtype)
        expected, actual = model(given), network_of(name, model)(given)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_tiny_patch16_dinov3_qkvb",
        "eva02_tiny_patch14_336",
        "vit_small_patch16_rope_mixed_224",
    ],
)
@torch.no_grad()
def test_logits_are_those_of_timm_at_its_own_size_and_depth(name: str) -> None:
    model = timm.create_model(name, num_classes=10).eval()
    x = images_for(model, 1)
    torch.testing.assert_close(network_of(name, model)(x), model(x), rtol=0, atol=1e-4)


def test_geometry() -> None:
    """All that a geometry says, of a network that has nearly all of it."""
    model = made("vit_giant_patch14_reg4_dinov2", (3, 2), in_chans=1)
    assert read_timm("vit_giant_patch14_reg4_dinov2", model).config == VitConfig(
        architecture="vit_giant_patch14_reg4_dinov2",
        dim=96,
        depth=2,
        heads=3,
        image_size=(42, 28),
        patch_size=14,
        channels=1,
        classes=96,
        hidden=256,
        features=True,
        others=5,
        activation="silu",
        gated=True,
        layer_scale=True,
    )


@pytest.mark.parametrize("case", CASES)
def test_geometry_goes_through_a_file(case: str) -> None:
    name, changes = CASES[case]
    config = read_timm(name, made(name, **changes)).config
    assert geometry_from(geometry_of(config)) == config


ROTARY = ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224"]


@pytest.mark.parametrize("known", [False, True], ids=["any-size", "known-size"])
@pytest.mark.parametrize("name", [*ROTARY, "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_network_without_values_reads_the_same(name: str, known: bool) -> None:
    options = {"dynamic_img_size": not known}
    model = made(name, **options)
    with torch.device("meta"):
        empty = timm.create_model(name, img_size=model.patch_embed.img_size, **NARROW, **options)
    expected, actual = read_timm(name, model), read_timm(name, empty)
    assert actual.config == expected.config
    states = [reading.translate(model.state_dict()) for reading in (expected, actual)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_training_draws_is_not_read() -> None:
    """timm moves coordinates at random in training, and makes networks in training mode."""
    model = made("vit_small_patch16_dinov3", rope_rescale_coords=2.0)
    expected = read_timm("vit_small_patch16_dinov3", model).translate(model.state_dict())
    actual = read_timm("vit_small_patch16_dinov3", model.train()).translate(model.state_dict())
    assert torch.equal(actual["rotary.cos"], expected["rotary.cos"])
    assert model.rope.training


def test_half_precision_stays() -> None:
    model = made("eva02_base_patch14_224").half()
    state = read_timm("eva02_base_patch14_224", model).translate(model.state_dict())
    assert {tensor.dtype for key, tensor in state.items() if "rotary" not in key} == {torch.float16}


# What is not covered


def _vit(**changes: Any) -> Any:
    given = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3, **changes}
    with torch.device("meta"):
        return VisionTransformer(**given)


def _eva(**changes: Any) -> Any:
    given = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3, **changes}
    with torch.device("meta"):
        return Eva(**given)


def _named(name: str, **changes: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, **{"depth": 2, **changes})


def _changed(make: Callable[[], Any], path: str, value: Any) -> Any:
    """A network with another module or attribute somewhere."""
    model = make()
    where, _, name = path.rpartition(".")
    setattr(model.get_submodule(where), name, value)
    return model


class _Other(nn.Module):
    """What no reader knows, whatever its base."""


class _OtherAttention(Attention):
    pass


class _OtherPatches(PatchEmbed):
    pass


class _OtherMlp(Mlp):
    pass


class _OtherNorm(nn.Module):
    def __init__(self, width: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width, device=device, dtype=dtype)), 1e-6


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    # Of any class
    "another class": (lambda: _named("beit_base_patch16_224"), "networks of the class Beit are not read"),
    "other patches": (lambda: _vit(embed_layer=_OtherPatches), "its patches are made by _OtherPatches"),
    "patch norm": (lambda: _named("aimv2_large_patch14_224"), "there is a norm behind its patches"),
    "long patches": (lambda: _vit(patch_size=(16, 8)), "its patches are no squares (16×8)"),
    "what is left of an image": (
        lambda: _named("vit_so400m_patch14_siglip_gap_384"),
        "images of 384×384 px are no whole number of its patches of 14",
    ),
    "odd heads": (lambda: _vit(embed_dim=30), "dim 30 must split into 2 heads of an even size"),
    "pooled with registers": (
        lambda: _vit(global_pool="avg", pool_include_prefix=True),
        "it pools the class token and registers with the image",
    ),
    "pooled by maxima": (lambda: _vit(global_pool="max"), "its tokens are pooled by 'max'"),
    "not pooled": (lambda: _eva(global_pool=""), "its tokens are pooled by 'nothing'"),
    "no last norm": (lambda: _vit(final_norm=False), "it has no norm behind its last block"),
    "no last norm of RADIO": (lambda: _named("vit_base_patch16_radio_v3"), "it has no norm behind its last block"),
    "two last norms": (
        lambda: _eva(use_post_transformer_norm=True, use_fc_norm=True),
        "it has two norms behind its last block",
    ),
    "norms of two kinds": (
        lambda: _changed(_vit, "blocks.1.norm2", RmsNorm(32)),
        "its norms differ (blocks.1.norm2 is another than the last one)",
    ),
    "norms of two eps": (
        lambda: _changed(_vit, "blocks.0.norm1.eps", 1e-5),
        "its norms differ (blocks.0.norm1 is another than the last one)",
    ),
    "LayerNorm without weights": (
        lambda: _vit(norm_layer=partial(LayerNorm, affine=False)),
        "a LayerNorm of it has no weights",
    ),
    "LayerNorm without biases": (
        lambda: _vit(norm_layer=partial(LayerNorm, bias=False)),
        "a LayerNorm of it has no biases",
    ),
    "RMSNorm without weights": (
        lambda: _vit(norm_layer=partial(RmsNorm, affine=False)),
        "an RmsNorm of it has no weights",
    ),
    "another norm": (lambda: _vit(norm_layer=_OtherNorm), "it has a _OtherNorm"),
    "another activation": (lambda: _vit(act_layer="relu"), "its FFN has the activation ReLU"),
    "another FFN": (lambda: _vit(mlp_layer=_OtherMlp), "its FFN is a _OtherMlp"),
    "convolutions": (lambda: _vit(mlp_layer=partial(Mlp, use_conv=True)), "its FFN is made of convolutions"),
    # VisionTransformer
    "post-norm": (lambda: _named("vit_base_patch16_rpn_224"), "its blocks are ResPostBlocks"),
    "parallel blocks": (lambda: _named("vit_base_patch16_xp_224"), "its blocks are ParallelScalingBlocks"),
    "parallel things": (lambda: _named("vit_small_patch16_18x2_224"), "its blocks are ParallelThingsBlocks"),
    "parallel differences": (
        lambda: _named("vit_dpwee_patch16_reg1_gap_256"),
        "its blocks are DiffParallelScalingBlocks",
    ),
    "differential attention": (lambda: _named("vit_dwee_patch16_reg1_gap_256"), "its attention is a DiffAttention"),
    "another attention": (lambda: _vit(attn_layer=_OtherAttention), "its attention is a _OtherAttention"),
    "another block, later": (lambda: _changed(_vit, "blocks.1", _Other()), "its blocks are _Others"),
    "narrow heads": (
        lambda: _changed(_vit, "blocks.0.attn", Attention(32, 2, attn_head_dim=8)),
        "its heads are wider or narrower than the network",
    ),
    "a gate": (lambda: _changed(_vit, "blocks.0.attn", Attention(32, 2, gated=True)), "its attention has a gate"),
    "normed queries": (lambda: _vit(qk_norm=True), "its queries and keys are normed"),
    "pooled by attention": (
        lambda: _named("vit_base_patch16_siglip_224"),
        "its tokens are pooled by attention",
    ),
    "distilled, its norm left out": (
        lambda: _named("deit_tiny_distilled_patch16_224", fc_norm=True),
        "it has no norm behind its last block",
    ),
    # Eva
    "Eva, post-norm": (lambda: _named("eva02_enormous_patch14_clip_224"), "its blocks are EvaBlockPostNorms"),
    "Eva, another attention": (
        lambda: _changed(_eva, "blocks.0.attn", Attention(32, 2)),
        "its attention is a Attention",
    ),
    "Eva, narrow heads": (
        lambda: _changed(_eva, "blocks.0.attn.head_dim", 8),
        "its heads are wider or narrower than the network",
    ),
    "Eva, grouped queries": (
        lambda: _eva(attn_type="rope", qkv_fused=False, num_kv_heads=(2, 1)),
        "heads share keys and values (grouped-query attention)",
    ),
    "Eva, a gate": (
        lambda: _changed(_eva, "blocks.0.attn.gate", nn.Linear(32, 32)),
        "its attention has a gate",
    ),
    "Eva, normed queries": (lambda: _named("vit_base_patch16_sapiens2", depth=12), "its queries and keys are normed"),
    "Eva, pooled by attention": (
        lambda: _named("vit_pe_core_tiny_patch16_384"),
        "its tokens are pooled by attention",
    ),
    "Eva, one LayerScale": (
        lambda: _eva(init_values=0.1, attn_only_layer_scale=True),
        "one branch alone has a LayerScale",
    ),
    "Eva, no last norm": (lambda: _named("vit_pe_spatial_tiny_patch16_512"), "it has no norm behind its last block"),
    "Eva, another rotary": (
        lambda: _eva(use_rot_pos_emb=True, rope_type="mrope", embed_dim=128),
        "its rotary embedding is RotaryEmbeddingMRope",
    ),
    "Eva, mixed rows first": (
        lambda: _eva(use_rot_pos_emb=True, rope_type="mixed", embed_dim=64),
        "its mixed rotary embedding counts rows first",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_covered_says_why(case: str) -> None:
    make, reason = REFUSALS[case]
    with pytest.raises(UnsupportedError) as caught:
        read_timm("any", make())
    assert str(caught.value) == reason


def test_what_is_refused_would_be_read_otherwise() -> None:
    """The networks that refusals start from are covered themselves."""
    for make in (_vit, _eva, lambda: _eva(use_rot_pos_emb=True), lambda: _eva(attn_type="rope", qkv_fused=False)):
        assert isinstance(read_timm("any", make()), Reading)


# Names


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_tiny_patch16_224"),
        ("timm:deit_tiny_distilled_patch16_224", "deit_tiny_distilled_patch16_224"),
        ("eva02_tiny_patch14_224.mim_in22k", "eva02_tiny_patch14_224"),
        ("resnet50", None),
        ("vit_tiny", None),
        ("", None),
    ],
)
def test_names(given: str, found: str | None) -> None:
    assert find_architecture(given) == found


def test_names_that_may_be_meant() -> None:
    assert nearest_names("timm:vit_tiny_patch16_225")[0] == "vit_tiny_patch16_224"
    assert nearest_names("x" * 100_000) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 0}, "at least 1"),
        ({"heads": 5}, "must split"),
        ({"image_size": (30, 32)}, "multiple of patch size"),
        ({"others": 0}, "reads tokens that are not there"),
        ({"pool": "both"}, "reads tokens that are not there"),
        ({"eps": 0.0}, "above 0"),
        ({"eps": float("nan")}, "above 0"),
        ({"features": True}, "as wide as the network"),
        ({"head_width": 8}, "UperNet"),
    ],
    ids=str,
)
def test_geometries_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    model = _vit()
    config = copy.copy(read_timm("any", model).config)
    with pytest.raises(ValueError, match=said):
        geometry_from({**geometry_of(config), **changes})
