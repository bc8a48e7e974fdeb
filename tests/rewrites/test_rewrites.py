"""Every rewrite leaves the float function as it is, alone and together with the others."""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch

from illama_deploy import RecipeError
from illama_deploy.calib import Observed, collect_channel_maxima, collect_rows
from illama_deploy.formats import parse_format
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.quant import find_sites, trial_product
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe
from illama_deploy.rewrites import REWRITES, apply_rewrites, observed_places, online_rotations, restructure
from illama_deploy.rewrites.hadamard import fixed_rotation, hadamard, random_rotation

CONFIG = IllamaConfig(dim=64, depth=2, heads=2, image_size=(16, 16), patch_size=4, channels=3, classes=5, hidden=96)
IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _hard_network(config: IllamaConfig = CONFIG) -> Illama:
    """Random weights, norm weights spread by 2^±5, fc2 inputs with loud channels."""
    torch.manual_seed(0)
    model = Illama(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.6 / config.dim**0.5)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(2.0 ** torch.empty_like(parameter).uniform_(-5, 5))
        for block in model.blocks:
            block.mlp.fc3.weight[::7] *= 64
    return model.eval()


def _observed(model: Illama, images: torch.Tensor = IMAGES, format_: str = "W4A4") -> Observed:
    formats = {site.name: parse_format(format_) for site in find_sites(model)}
    return Observed(model, lambda: [images], trial_product(formats, lambda histogram, _: histogram.maximum, "minmax"))


def _departure(model: Illama, names: list[str], images: torch.Tensor = IMAGES) -> float:
    """Largest change of a logit by rewrites, relative to the largest logit."""
    rewritten = copy.deepcopy(model)
    _apply(rewritten, names, images)
    expected, actual = model(images), rewritten(images)
    return float((actual - expected).abs().max() / expected.abs().max())


def _apply(model: Illama, names: list[str], images: torch.Tensor = IMAGES) -> None:
    apply_rewrites(model, names, partial(_observed, images=images))


@pytest.mark.parametrize(
    "names",
    [
        *([name] for name in REWRITES),
        list(Recipe().rewrites),
        list(reversed(Recipe().rewrites)),
        list(REWRITES),
        list(reversed(REWRITES)),
        ["rotate_qk_online", "rotate_swiglu_online"] * 2,
    ],
    ids="+".join,
)
@torch.no_grad()
def test_function_is_unchanged(names: list[str]) -> None:
    assert _departure(_hard_network(), names) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in REWRITES if n.startswith(("search", "scale")) or n.endswith("online")])
@pytest.mark.parametrize(("dim", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16)], ids=["T", "S", "B", "L"])
@torch.no_grad()
def test_function_is_unchanged_on_published_geometries(dim: int, heads: int, name: str) -> None:
    model = _hard_network(IllamaConfig(dim, depth=1, heads=heads, image_size=(32, 32), classes=5))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert _departure(model, ["fold_norms", name], images) < 1e-4


@pytest.mark.parametrize("name", [n for n, rewrite in REWRITES.items() if rewrite.fits(Illama(CONFIG))])
def test_each_changes_something(name: str) -> None:
    model = _hard_network()
    rewritten = copy.deepcopy(model)
    _apply(rewritten, [name])
    before, after = model.state_dict(), rewritten.state_dict()
    values = any(not torch.equal(before[key], after[key]) for key in before)
    structure = any(
        (a.attn.scale, a.attn.class_query_only, str(a)) != (b.attn.scale, b.attn.class_query_only, str(b))
        for a, b in zip(model.blocks, rewritten.blocks, strict=True)
    )
    assert values or structure


@pytest.mark.parametrize("names", [Recipe().rewrites, tuple(REWRITES)], ids=["default", "all"])
def test_structure_can_be_restored_without_values(names: tuple[str, ...]) -> None:
    rewritten, loaded = _hard_network(), _hard_network()
    _apply(rewritten, list(names))
    restructure(loaded, names)
    loaded.load_state_dict(rewritten.state_dict())
    assert torch.equal(loaded(IMAGES), rewritten(IMAGES))


def test_structure_needs_no_memory() -> None:
    """As when the size of a file is asked for; a width without a Hadamard matrix too."""
    with torch.device("meta"):
        model = Illama(IllamaConfig(dim=92 * 2, depth=1, heads=2, image_size=(8, 8), patch_size=4, hidden=96))
        restructure(model, list(REWRITES))
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 1000)
    assert set(online_rotations(model).values()) == {92, 48}


def test_norms_fold_to_ones() -> None:
    model = _hard_network()
    _apply(model, ["fold_norms"])
    assert all((p == 1).all() for name, p in model.named_parameters() if "norm" in name)


def test_smoothing_evens_out_the_channels_it_says_it_does() -> None:
    model = _hard_network()
    _apply(model, ["fold_norms"])
    names = ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"]
    stages = [collect_channel_maxima(model, names, [IMAGES])]
    _apply(model, ["smooth_swiglu", "smooth_norms"])
    stages.append(collect_channel_maxima(model, names, [IMAGES]))
    for before, after in pairwise(stages):
        for name in names:
            assert after[name].max() / after[name].median() < 0.5 * before[name].max() / before[name].median()


def test_observations_handed_on_are_those_of_the_rewritten_network() -> None:
    model = _hard_network()
    _apply(model, ["fold_norms"])
    known = _observed(model)
    before = {
        place: (known.maxima(place).clone(), known.rows(place)) for place in observed_places(model) if "_" not in place
    }
    names = ["search_smooth_norms", "smooth_norms", "smooth_swiglu", "scale_rotary_pairs"]
    apply_rewrites(model, names, lambda m: known)
    fresh = _observed(model)
    for place in observed_places(model):
        torch.testing.assert_close(known.maxima(place), fresh.maxima(place), rtol=1e-3, atol=1e-4)
    for place, (maxima, rows) in before.items():
        assert not torch.allclose(known.maxima(place), maxima)
        assert not torch.allclose(known.rows(place), rows)
        torch.testing.assert_close(known.rows(place), fresh.rows(place), rtol=1e-3, atol=1e-3)


def test_last_block_computes_one_token() -> None:
    model = _hard_network()
    _apply(model, ["class_token_last_block"])
    shapes: list[torch.Size] = []
    model.blocks[-1].mlp.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    model(IMAGES)
    assert shapes == [torch.Size([8, 1, 64])]


def test_rotary_pairs_get_equal_ranges() -> None:
    model = _hard_network()
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[6:8] *= 100  # a pair of the first head's queries
    _apply(model, ["fold_norms", "class_token_last_block", "scale_rotary_pairs"])
    seen = _observed(model)
    for block in (0, 1):
        q, k = (seen.maxima(f"blocks.{block}.attn.rotate_{x}").unflatten(1, (-1, 2)).amax(-1) for x in "qk")
        torch.testing.assert_close(q, k, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rotation", [[], ["rotate_swiglu_online"]], ids=["plain", "rotated"])
@torch.no_grad()
def test_searched_alpha_is_no_worse_than_any_fixed_one(rotation: list[str]) -> None:
    def decibels(names: list[str]) -> float:
        model = _hard_network()
        _apply(model, ["fold_norms", *rotation, *names])
        place, seen, site, mlp = "blocks.0.mlp.rotate", _observed(model), "blocks.0.mlp.fc2", model.blocks[0].mlp
        rows = mlp.rotate(seen.rows(place))
        exact = rows @ mlp.fc2.weight.T
        noise = seen.product(site, rows, mlp.fc2.weight) - exact
        return sqnr_db(float(exact.square().sum()), float(noise.square().sum()))

    searched = decibels(["search_smooth_swiglu"])
    assert searched >= decibels(["smooth_swiglu"]) - 0.1  # its maxima are those of all rows
    assert searched > decibels([]) + (0 if rotation else 3)


def test_search_leaves_alone_what_is_not_quantized() -> None:
    model = _hard_network()
    before = copy.deepcopy(model.state_dict())
    names = ["search_smooth_norms", "search_smooth_swiglu"]
    apply_rewrites(model, names, lambda m: Observed(m, lambda: [IMAGES]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_search_does_not_depend_on_batches() -> None:
    images = torch.cat([IMAGES * factor for factor in (1, 2, 3, 4, 5)])
    results = []
    for size in (40, 7):
        model = _hard_network()
        observed = _observed(model)
        observed.images = lambda size=size: images.split(size)  # type: ignore[misc]
        apply_rewrites(model, ["search_smooth_norms", "search_smooth_swiglu"], lambda m, o=observed: o)  # type: ignore[misc]
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_rows_are_drawn_from_all_of_them() -> None:
    model = _hard_network()
    everything, some = (collect_rows(model, ["head"], [IMAGES], count) for count in (2048, 5))
    assert len(everything["head"]) == len(IMAGES)
    assert len(some["head"]) == 5
    assert {tuple(row.tolist()) for row in some["head"]} < {tuple(row.tolist()) for row in everything["head"]}


def test_online_rotations_are_not_stored() -> None:
    model = _hard_network()
    _apply(model, ["rotate_qk_online", "rotate_swiglu_online"])
    assert model.state_dict().keys() == _hard_network().state_dict().keys()
    blocks = {"attn.rotate_q": 32, "attn.rotate_k": 32, "mlp.rotate": 48}  # of 96, what divides it up to 64
    assert online_rotations(model) == {f"blocks.{i}.{name}": size for i in (0, 1) for name, size in blocks.items()}


@pytest.mark.parametrize("order", [1, 2, 6, 40, 64, 92])
def test_fixed_rotations_are_orthogonal_and_even(order: int) -> None:
    matrix = fixed_rotation(order)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order, dtype=torch.float64))
    assert float(matrix.abs().max()) <= (2 / order) ** 0.5 + 1e-12


@pytest.mark.parametrize("order", [1, 2, 12, 20, 28, 36, 64, 192, 384, 512, 768, 1024])
def test_hadamard_matrices(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    assert set(matrix.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [6, 64, 92, 192])
def test_rotations_are_orthogonal_and_drawn(order: int) -> None:
    """Widths without a Hadamard matrix of these constructions (6, 92) get one too."""
    assert (hadamard(order) is None) == (order in (6, 92))
    first, again, other = (random_rotation(order, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    torch.testing.assert_close(first @ first.T, torch.eye(order, dtype=torch.float64))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("rotate_residual", "blocks.0.attn.qkv"),
        ("rotate_values", "blocks.0.attn.proj"),
        ("rotate_qk_online", "blocks.0.attn.qk"),
        ("rotate_swiglu_online", "blocks.0.mlp.fc2"),
    ],
)
def test_rotations_spread_a_loud_channel(name: str, site: str) -> None:
    model = _hard_network()
    with torch.no_grad():
        model.pos_embed[..., 3] *= 100
        model.blocks[0].attn.qkv.weight[[3, 2 * 64 + 3]] *= 100
        model.blocks[0].mlp.fc3.weight[5] *= 100
    before = _loudest(model, site)
    apply_rewrites(model, ["fold_norms", name])
    assert _loudest(model, site) < 0.5 * before


def _loudest(model: Illama, site: str) -> float:
    """Largest channel's maximum over the median channel's."""
    folded = copy.deepcopy(model)
    apply_rewrites(folded, ["fold_norms"])
    maxima = collect_channel_maxima(folded, [site], [IMAGES])[site]
    return float(maxima.max() / maxima.median())


def test_rotations_draw_from_the_seed_alone() -> None:
    networks = [_hard_network() for _ in range(4)]
    for model, names, seed in zip(
        networks,
        (["rotate_values"], ["rotate_values"], ["rotate_values"], ["fold_attention_scale", "rotate_values"]),
        (0, 0, 1, 0),
        strict=True,
    ):
        apply_rewrites(model, names, seed=seed)
    same, again, other, later = (model.blocks[1].attn.proj.weight for model in networks)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    assert torch.equal(same, later)


def test_unknown_rewrite_and_missing_images() -> None:
    with pytest.raises(RecipeError, match="no rewrite 'melt'"):
        apply_rewrites(_hard_network(), ["melt"])
    with pytest.raises(RecipeError, match="needs calibration images"):
        apply_rewrites(_hard_network(), ["smooth_norms"])
