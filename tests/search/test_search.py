"""The search for formats: its parts against brute force and known answers, the whole of it on digits."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import illama_deploy
from illama_deploy import UsageError
from illama_deploy.affine import scale_of
from illama_deploy.formats import parse_format
from illama_deploy.measure import drop_interval, paired_drop
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.quant import QuantizedArtifact, find_sites, stored_size
from illama_deploy.recipe import Recipe
from illama_deploy.rounding import nearest
from illama_deploy.search import (
    Choice,
    Limits,
    bit_operations,
    cheapest_passing,
    count_products,
    diverge,
    group_sites,
    most_probes,
    quantized_alone,
    walk,
    weight_bytes,
)
from illama_deploy.steps.shared import search as step

from ..conftest import Cli

pytestmark = pytest.mark.slow

W8A8, W4A8, W4A4 = map(parse_format, ("W8A8", "W4A8", "W4A4"))
CONFIG = IllamaConfig(dim=64, depth=2, heads=2, image_size=(8, 8), patch_size=2, channels=1, classes=10, hidden=128)
#: Cheap: rounding to nearest, few images.
QUICK = {"recipe": "w8a8", "calib_images": 48, "held_out_images": 200}


# --- the parts -------------------------------------------------------------------------------------------------------


SHARED = Illama(CONFIG).structure.shared_inputs()


def test_sites_of_one_input_go_together() -> None:
    groups = group_sites(find_sites(Illama(CONFIG)), SHARED)
    assert [site.name for site in groups["blocks.1.mlp.fc[13]"]] == ["blocks.1.mlp.fc1", "blocks.1.mlp.fc3"]
    for name, sites in groups.items():
        recipe = Recipe(overrides=((name, "W4A8"),))
        named = [site for site in find_sites(Illama(CONFIG)) if recipe.format_of(site.name) == W4A8]
        assert named == list(sites)
    assert list(group_sites(find_sites(Illama(CONFIG))[-2:-1], SHARED)) == ["blocks.1.mlp.fc3"]


@pytest.mark.parametrize("cheap", ["W4A8", "W4A16-g32", "W2A16", "W3A3"])
def test_weight_bytes_are_those_of_the_file(cheap: str) -> None:
    model, format_ = Illama(CONFIG), parse_format(cheap)
    sites = [site for site in find_sites(model) if not site.is_product]
    formats = {site.name: W8A8 for site in sites}
    for site in sites[::3]:
        module = model.get_submodule(site.name)
        saved = stored_size(CONFIG, (), formats) - stored_size(CONFIG, (), {**formats, site.name: format_})
        assert saved == pytest.approx(weight_bytes(module, W8A8) - weight_bytes(module, format_), abs=128)  # the header


def test_products_are_counted_for_one_image() -> None:
    model = Illama(CONFIG)
    counts = count_products(model, torch.zeros(1, 1, 8, 8), find_sites(model))
    tokens, dim, hidden = CONFIG.tokens, CONFIG.dim, CONFIG.hidden
    assert counts["patch_embed.proj"] == (tokens - 1) * 4 * dim
    assert counts["blocks.0.attn.qkv"] == 3 * tokens * dim * dim
    assert counts["blocks.0.attn.qk"] == counts["blocks.0.attn.pv"] == tokens * tokens * dim
    assert counts["blocks.1.mlp.fc2"] == tokens * dim * hidden
    assert counts["head"] == 10 * dim
    assert bit_operations(3, W4A8) == 3 * 32
    assert bit_operations(3, W4A8, is_product=True) == 3 * 64
    assert bit_operations(3, parse_format("W4A16")) == 3 * 64


def test_divergence_of_known_logits() -> None:
    p, q = np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]), np.array([[0.6, 0.3, 0.1], [0.5, 0.25, 0.25]])
    exact, logits = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q) + 2.0)
    found = diverge([(logits[:1], exact[:1]), (logits[1:], exact[1:])])
    assert found.kl == pytest.approx((p * np.log(p / q)).sum() / 2)
    signal_power, noise = (np.log(p) ** 2).sum(), ((np.log(q) + 2 - np.log(p)) ** 2).sum()
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal_power / noise))
    assert diverge([(exact, exact)]).kl == 0


def test_a_site_alone_is_put_back() -> None:
    torch.manual_seed(0)
    model, images = Illama(CONFIG).eval(), torch.randn(4, 1, 8, 8)
    site = next(site for site in find_sites(model) if site.name == "blocks.0.mlp.fc2")
    thresholds = {"blocks.0.mlp.fc2/input": 1e-4}  # far too small: it must show

    def rounding(weight: torch.Tensor, dtype: object, group: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        return nearest(weight, dtype, group=group)  # type: ignore[arg-type]

    with torch.no_grad():
        before = model(images)
        with quantized_alone(model, [site], {site.name: W4A8}, thresholds, rounding):
            assert not torch.equal(model(images), before)
        assert torch.equal(model(images), before)
        with pytest.raises(KeyError), quantized_alone(model, [site], {}, thresholds, rounding):
            pass
        assert torch.equal(model(images), before)
    assert float(scale_of(torch.tensor(1e-4), W4A8.activations)) > 0  # type: ignore[arg-type]


choice = st.builds(
    Choice,
    format=st.just(W8A8),
    bytes=st.sampled_from([10, 20, 40, 80]),
    work=st.integers(1, 50),
    kl=st.floats(0, 1).map(lambda x: round(x, 3)),
    sqnr_db=st.just(0.0),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(choice, min_size=1, max_size=4), min_size=1, max_size=4))
def test_no_assignment_beats_the_curve(groups: list[list[Choice]]) -> None:
    """Against all assignments: none of as few bytes has less KL; the end has the fewest bytes, then the least work."""
    points = walk({str(i): choices for i, choices in enumerate(groups)})
    every = [
        (sum(c.bytes for c in each), sum(c.work for c in each), sum(c.kl for c in each))
        for each in itertools.product(*groups)
    ]

    def bytes_(number: int) -> int:
        return sum(c.bytes for c in points[number].choices.values())

    fewest = min(size for size, _, _ in every)
    for number, point in enumerate(points):
        size = bytes_(number)
        if number and size < bytes_(number - 1):
            assert point.kl <= min(kl for other, _, kl in every if other <= size) + 1e-9
        elif number:
            assert size == fewest  # what only saves work comes last
        assert number == 0 or point.changed in point.choices
    assert points[0].kl == pytest.approx(min(kl for _, _, kl in every))
    assert bytes_(-1) == fewest
    assert sum(c.work for c in points[-1].choices.values()) == min(work for size, work, _ in every if size == fewest)
    assert all(a.kl <= b.kl + 1e-9 for a, b in itertools.pairwise(points))


@pytest.mark.parametrize("points", [1, 2, 3, 7, 8, 9, 50])
def test_the_cheapest_is_found_with_few_looks(points: int) -> None:
    for boundary in range(4, points + 5):  # the first that fails; all fail at 4, none at the end
        looks: list[int] = []

        def passes(number: int, boundary: int = boundary, looks: list[int] = looks) -> bool:
            looks.append(number)
            return number < boundary

        found = cheapest_passing(4, points + 3, passes)
        assert found == (boundary - 1 if boundary > 4 else None)
        assert found is None or found in looks
        assert len(looks) == len(set(looks)) <= most_probes(points)


def test_the_interval_from_counts_is_that_from_images() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(500) < 0.8, rng.random(500) < 0.78
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    assert drop_interval(lost, won, 500, 0.99) == paired_drop(before, after, 0.99)


# --- the whole -------------------------------------------------------------------------------------------------------


def record_of(artifact: QuantizedArtifact) -> dict:  # type: ignore[type-arg]
    return json.loads((artifact.path / "search.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> QuantizedArtifact:
    """As small as half of the curve: some sites in each format."""
    return illama_deploy.quantize(max_size="0.42MB", out=tmp_path_factory.mktemp("search") / "q", **QUICK)  # type: ignore[arg-type]


def test_the_size_is_kept_and_known_to_the_byte(searched: QuantizedArtifact) -> None:
    record = record_of(searched)
    sizes = [point["bytes"] for point in record["curve"]]
    chosen = record["chosen"]
    assert sizes == sorted(sizes, reverse=True)
    assert (searched.path / "model.safetensors").stat().st_size == sizes[chosen] <= 420_000 < sizes[chosen - 1]
    assert {f.name for f in searched.formats.values()} == {"W8A8", "W4A8"}
    assert searched.manifest["format"] in ("W8A8+W4A8", "W4A8+W8A8")
    kl = [point["expected_kl"] for point in record["curve"]]
    assert kl == sorted(kl)
    assert kl[-1] > kl[0] > 0


def test_sensitivities_say_what_fewer_bits_cost(searched: QuantizedArtifact) -> None:
    rows = {(row["sites"], row["format"]): row for row in record_of(searched)["sensitivity"]}
    assert len(rows) == 2 * 10  # patch embedding, head, and four groups in each of two blocks
    for name in {name for name, _ in rows}:
        assert rows[name, "W4A8"]["kl"] > rows[name, "W8A8"]["kl"]
        assert rows[name, "W4A8"]["sqnr_db"] < rows[name, "W8A8"]["sqnr_db"]
        assert rows[name, "W4A8"]["bytes"] < rows[name, "W8A8"]["bytes"]


def test_held_out_images_did_not_calibrate(searched: QuantizedArtifact) -> None:
    held_out = record_of(searched)["held_out"]
    assert (held_out["spec"], held_out["split"], len(held_out["indices"])) == ("digits", "train", 200)
    assert not set(held_out["indices"]) & set(searched.manifest["data"]["indices"])
    drop = searched.manifest["search"]["drop"]
    assert drop["low"] < drop["value"] < drop["high"]


def test_the_recipe_found_makes_the_same_network(searched: QuantizedArtifact, tmp_path: Path) -> None:
    again = illama_deploy.quantize(recipe=searched.recipe, out=tmp_path / "again")
    assert (again.path / "model.safetensors").read_bytes() == (searched.path / "model.safetensors").read_bytes()


def test_it_exports_to_integer_kernels(searched: QuantizedArtifact, tmp_path: Path) -> None:
    result = illama_deploy.export(searched.path, float=False, out=tmp_path / "onnx")
    assert result.proof.fed_by_dequantize == ()
    assert illama_deploy.evaluate(result.model, reference=searched.path, limit=200).figures["agreement"] >= 99


def test_the_drop_is_kept_with_a_margin(tmp_path: Path) -> None:
    """The cheapest assignment that is looked at and passes; what is cheaper was looked at and failed."""
    artifact = illama_deploy.quantize(
        max_drop=1.7,
        candidates=["W8A8", "W2A16"],
        out=tmp_path / "q",
        **{**QUICK, "held_out_images": 800},  # type: ignore[arg-type]
    )
    record = record_of(artifact)
    chosen, measured = record["chosen"], {i: p["measured"] for i, p in enumerate(record["curve"]) if p["measured"]}
    assert 0 < chosen < len(record["curve"]) - 1
    assert measured[chosen]["drop"]["high"] <= 1.7
    assert measured[chosen + 1]["drop"]["high"] > 1.7
    assert len(measured) <= most_probes(len(record["curve"]))
    # The interval is wider than that of one look.
    figures = measured[chosen]
    assert figures["drop"]["high"] > drop_interval(figures["lost"], figures["won"], figures["images"], 0.95).high
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_the_same_search_gives_the_same_bytes(searched: QuantizedArtifact, tmp_path: Path) -> None:
    again = illama_deploy.quantize(max_size="0.42MB", calib_batch=7, out=tmp_path / "q", **QUICK)  # type: ignore[arg-type]
    for name in ("model.safetensors", "manifest.json", "search.json", "search.svg"):
        assert (again.path / name).read_bytes() == (searched.path / name).read_bytes()


def test_it_goes_on_where_it_was_killed(
    searched: QuantizedArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 after some measurements; what they took is not done again, and the result is the same."""
    out = tmp_path / "q"
    command = ["quantize", "--max-size", "0.42MB", "--recipe", "w8a8", "--calib-images", 48, "--held-out-images", 200]
    for _ in range(5):  # on a busy machine it may be done before this process wakes up
        shutil.rmtree(out, ignore_errors=True)
        with subprocess.Popen(
            [sys.executable, "-m", "illama_deploy", *map(str, command), "--out", str(out)], start_new_session=True
        ) as process:
            while process.poll() is None and len(list(tmp_path.glob(".q.illama-unfinished/site-*.json"))) < 7:
                time.sleep(0.002)
            process.kill()
        if process.returncode:
            break
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    left = len(list(tmp_path.glob(".q.illama-unfinished/site-*.json")))
    calls: list[object] = []
    monkeypatch.setattr(step, "diverge", lambda pairs: calls.append(0) or diverge(pairs))
    artifact = illama_deploy.quantize(max_size="0.42MB", out=out, **QUICK)  # type: ignore[arg-type]
    assert left >= 7
    assert len(calls) == 20 - left + 1
    for name in ("model.safetensors", "manifest.json", "search.json"):
        assert (artifact.path / name).read_bytes() == (searched.path / name).read_bytes()
    assert not (tmp_path / ".q.illama-unfinished").exists()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-drop", 0), ("at most 0 points", "--max-drop 0.5")),
        (("--max-drop", -1), ("at most -1 points",)),
        (("--max-drop", "nan"), ("at most nan points",)),
        (("--max-drop", 100), ("at most 100 points",)),
        (("--max-size", "big"), ("'big' is no size", "30%")),
        (("--max-size", "0"), ("'0' is no size",)),
        (("--max-size", "120%"), ("'120%' is no size",)),
        (("--max-drop", 0.5, "--format", "W4A8"), ("--format", "--candidate")),
        (("--max-size", "1MB", "--bits", 4), ("--bits", "--candidate")),
        (("--candidate", "W4A8"), ("no limit", "--max-drop")),
        (("--held-out-images", 10), ("no limit",)),
        (("--held-out-split", "test"), ("no limit",)),
        (("--max-drop", 0.5, "--candidate", "W4A8", "--candidate", "w4a8"), ("to choose from", "twice")),
        (("--max-drop", 0.5, "--candidate", "W5A5"), ("W5A5",)),
        (("--max-drop", 0.5, "--held-out-images", 0), ("at least one held-out image",)),
        (("--max-drop", 0.5, "--held-out-split", "validation"), ("validation",)),
        (
            ("--max-drop", 0.5, "--calib-images", 512),
            ("387 held-out images are too few", "takes 1270", "--calib-images"),
        ),
        (("--max-size", "3MB", "--calib-images", 5000), ("0 held-out images are too few", "none is left")),
        (("--max-size", "0.1MB", "--calib-images", 32), ("Nothing fits 0.10 MB", "0.32 MB", "--candidate")),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and str(value[0]).startswith("--") else "",
)
def test_bad_input(cli: Cli, tmp_path: Path, options: tuple[object, ...], says: tuple[str, ...]) -> None:
    result = cli("quantize", *options, "--out", tmp_path / "q")
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert "\n  next:  " in result.err
    assert "Unexpected" not in result.err
    for text in says:
        assert text in result.err
    assert not (tmp_path / "q").exists()


def test_a_limit_that_cannot_be_met_says_what_costs_most(cli: Cli, tmp_path: Path) -> None:
    options = (
        "--candidate",
        "W3A3",
        "--candidate",
        "W2A16",
        "--calib-images",
        48,
        "--range",
        "minmax",
        "--recipe",
        "w8a8",
    )
    refused = cli("quantize", "--max-drop", 0.8, *options, "--out", tmp_path / "q")
    assert refused.code == 2
    for text in ("at most 0.8 points", "851 held-out images", "costs most in", "KL", "--exclude"):
        assert text in refused.err
    assert [path.name for path in tmp_path.iterdir()] == [".q.illama-unfinished"]
    # With a limit that can be met, what was measured serves again.
    before = {path.name for path in next(tmp_path.iterdir()).iterdir()}
    assert sum(name.startswith("drop-") for name in before) > 1
    done = cli("quantize", "--max-drop", 90, *options, "--out", tmp_path / "q")
    assert done.code == 0, done.err
    assert "chosen" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_overrides_are_left_alone(tmp_path: Path) -> None:
    recipe = Recipe(format="W4A8", overrides=(("*.fc?", "W4A8"), ("head", "W8A8")))
    artifact = illama_deploy.quantize(max_size="30%", out=tmp_path / "q", **{**QUICK, "recipe": recipe})  # type: ignore[arg-type]
    searched = {row["sites"] for row in record_of(artifact)["sensitivity"]}
    assert searched == {"patch_embed.proj"} | {f"blocks.{i}.attn.{name}" for i in (0, 1) for name in ("qkv", "proj")}
    assert {artifact.formats[f"blocks.{i}.mlp.fc{j}"].name for i in (0, 1) for j in (1, 2, 3)} == {"W4A8"}
    with pytest.raises(UsageError, match="No site is left"):
        illama_deploy.quantize(
            max_size="30%",
            out=tmp_path / "r",
            **{**QUICK, "recipe": Recipe(overrides=(("*", "W8A8"),))},  # type: ignore[arg-type]
        )


def test_limits_settle_candidates_and_recipe() -> None:
    limits, recipe = Limits(max_drop=1.0).with_recipe(None)
    assert [f.name for f in limits.candidates] == ["W8A8", "W4A8"]
    assert (recipe.rounding, recipe.overrides) == (
        Recipe.for_format("W4A8").rounding,
        Recipe.for_format("W4A8").overrides,
    )
    limits, recipe = Limits(max_drop=1.0).with_recipe(Recipe.read("w4a4"))
    assert [f.name for f in limits.candidates] == ["W8A8", "W4A8", "W4A4"]
    limits, recipe = Limits(max_drop=1.0, candidates=(parse_format("W2A16"), W8A8)).with_recipe(None)
    assert (recipe.format, recipe.rewrites) == ("W8A8", Recipe.for_format("W2A16").rewrites)
    assert Limits(max_size=(2.5, "MB")).bytes_of(10**7) == 2.5e6
    assert Limits(max_size=(25, "%")).bytes_of(10**7) == 2.5e6
    assert W4A4 not in limits.candidates
