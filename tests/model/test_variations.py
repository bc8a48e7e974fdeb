"""Steps of the road from ViT to iLLaMA are deployed like any other network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.export import build_float_graph
from illama_deploy.export.layout import BATCH_MAJOR, SEQUENCE_MAJOR, Layout
from illama_deploy.formats import parse_format
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.quant import find_sites
from illama_deploy.quant.network import quantize_network
from illama_deploy.rewrites import REWRITES, apply_rewrites
from illama_deploy.rounding import nearest
from illama_deploy.steps.check import check
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import export
from illama_deploy.steps.qat import qat
from illama_deploy.steps.quantize import quantize
from illama_deploy.steps.train import train
from illama_deploy.targets import find_target
from illama_deploy.training import TrainRecipe

from ..export.test_export import _run
from ..rewrites.test_rewrites import _observed
from ..training.test_training import QUIET

pytestmark = pytest.mark.slow

VARIATIONS: dict[str, dict[str, str]] = {
    "bidirectional": {"mask": "none"},
    "additive": {"mask": "additive"},
    "modified": {"mask": "modified", "class_token": "first"},
    "RoPE-only": {"positions": "rope"},
    "learned-only": {"positions": "learned"},
    "class token first": {"class_token": "first", "mask": "none"},
    "all at once": {"class_token": "first", "mask": "additive", "positions": "learned"},
}
SHAPE = {"dim": 48, "depth": 2, "heads": 2, "image_size": (16, 24), "patch_size": 8, "classes": 7, "hidden": 96}
varied = pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS)


def _network(**changes: Any) -> Illama:
    torch.manual_seed(0)
    model = Illama(IllamaConfig(**{**SHAPE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed" or model.config.positions != "rope":
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@varied
@torch.no_grad()
def test_every_rewrite_is_exact(variation: dict[str, str]) -> None:
    for rewrite in REWRITES.values():
        model = _network(**variation)
        images = torch.randn(8, 3, 16, 24)
        expected = model(images)
        apply_rewrites(model, [rewrite.name], lambda m, images=images: _observed(m, images))  # type: ignore[misc]
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4, msg=rewrite.name)


@pytest.mark.parametrize("layout", [SEQUENCE_MAJOR, BATCH_MAJOR], ids=["sequence-major", "batch-major"])
@pytest.mark.parametrize("head_width", [0, 16], ids=["classes", "pixels"])
@varied
@torch.no_grad()
def test_graphs_compute_what_torch_does(variation: dict[str, str], head_width: int, layout: Layout) -> None:
    model = _network(**variation, head_width=head_width, image_size=(32, 48), depth=4)
    images = torch.randn(3, 3, 32, 48)
    expected = model(images).numpy()
    for rewrites in ([], [*[*REWRITES][:4], "rotate_qk_online", "rotate_swiglu_online"]):
        apply_rewrites(model, rewrites)
        np.testing.assert_allclose(_run(build_float_graph(model, layout), images), expected, rtol=2e-4, atol=2e-4)


@torch.no_grad()
def test_a_map_before_the_class_token_moves_nothing_else() -> None:
    """Additive is additive: image tokens of a causal network know nothing of later ones."""
    model = _network(mask="additive")
    image = torch.randn(1, 3, 16, 24)
    other = image.clone()
    other[..., 8:, 16:] = 0  # the last patch
    streams = [list(model.stream(x))[-1] for x in (image, other)]
    assert torch.equal(streams[0][:, :5], streams[1][:, :5])
    assert not torch.equal(streams[0][:, 5:], streams[1][:, 5:])


@pytest.fixture(scope="module", params=VARIATIONS.values(), ids=VARIATIONS)
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained `run`, its network quantized and exported."""
    place = tmp_path_factory.mktemp("variation")
    recipe = QUIET.override(epochs=3, warmup_epochs=0.0, soft_mask="none", soft_mask_epochs=0.0, lr=5e-3)
    trained = train(recipe.override(model=(*recipe.model, *request.param.items())), data="digits", out=place / "run")
    assert read_checkpoint(trained.path).config.variation == request.param
    quantize(trained.path, calib_images=64, attention_products=True, out=place / "w8a8")
    return place


@pytest.mark.parametrize("target", ["onnx-cpu", "openvino"])
def test_integers_are_shipped_and_agree_with_torch(deployed: Path, target: str) -> None:
    if target != "onnx-cpu":
        pytest.importorskip(target)
    result = export(deployed / "w8a8", target=target, verify=True, out=deployed / target)
    assert result.proof is not None and result.proof.expected
    assert result.proof.missing == () and result.proof.fed_by_dequantize == ()
    assert result.parity is not None and result.parity.departs is None
    figures = evaluate(result.model, reference=deployed / "w8a8", data="digits", threads=1).figures
    assert figures["agreement"] >= 99.5


@pytest.mark.parametrize("name", ["class token first", "all at once"])
@torch.no_grad()
def test_executorch_agrees_layer_by_layer(name: str) -> None:
    pytest.importorskip("executorch")
    model = _network(**VARIATIONS[name])
    images = torch.randn(16, 3, 16, 24)
    apply_rewrites(model, ["fold_norms", "class_token_last_block", "rotate_qk_online"])
    sites = [site for site in find_sites(model) if not site.is_product]
    formats = {site.name: parse_format("W8A8") for site in sites}
    thresholds = {f"{site.name}/input": 4.0 for site in sites}
    quantize_network(model, sites, thresholds, formats, lambda w, kind, group: nearest(w, kind, group=group))
    assert find_target("executorch").parity(model, images[:4]).departs is None


def test_check_measures_them(deployed: Path) -> None:
    export(deployed / "w8a8", target="onnx-cpu", out=deployed / "checked")
    report = check(deployed / "checked", data="digits", limit=300, batch=(1,), rounds=10, threads=1)
    assert report.artifacts[1]["proof"] is not None and report.artifacts[1]["comparison"]["agreement"] >= 90
    assert {gate.name for gate in report.gates} >= {"accuracy_drop"}


def test_training_goes_on_with_their_integers(deployed: Path) -> None:
    recipe = TrainRecipe.read("qat-digits").override(epochs=1, warmup_epochs=0.0)
    before = evaluate(deployed / "w8a8", data="digits").figures["top1"]
    result = qat(deployed / "w8a8", recipe=recipe, data="digits", out=deployed / "qat")
    assert result.figures["top1"] >= before


def test_other_image_sizes_keep_the_class_tokens_position(tmp_path: Path) -> None:
    recipe = QUIET.override(epochs=1, warmup_epochs=0.0, soft_mask="none", soft_mask_epochs=0.0)
    changed = {"class_token": "first", "mask": "none"}
    trained = train(recipe.override(model=(*recipe.model, *changed.items())), data="digits", out=tmp_path / "run")
    before, after = read_checkpoint(trained.path), read_checkpoint(trained.path, image_size=(24, 24))
    assert torch.equal(after.state["pos_embed"][:, 0], before.state["pos_embed"][:, 0])
    assert after.state["pos_embed"].shape[1] == 37
