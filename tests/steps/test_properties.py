"""Properties against independent libraries and known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from torch import nn

import illama_deploy
from illama_deploy.checkpoint import read_checkpoint, save_checkpoint
from illama_deploy.data import CueConflict, read_categories
from illama_deploy.data.corruptions import Corruptor, corruption_names
from illama_deploy.errors import DataError
from illama_deploy.formats import parse_format
from illama_deploy.measure import Accuracy, Binning, fit_temperature
from illama_deploy.measure.attention_rank import measure_attention_rank, singular_values, values_to_reach
from illama_deploy.measure.reliability import log_softmax
from illama_deploy.measure.shape_bias import decide, shape_bias
from illama_deploy.model.attention import Attention, apply_rope
from illama_deploy.model.illama import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.quant import QuantizedArtifact, divide_logits, load_quantized
from illama_deploy.quant.network import restructure_sites
from illama_deploy.rounding import rounding_method
from illama_deploy.steps.export import ExportResult
from illama_deploy.targets.open import open_artifact

from ..conftest import SHARED, Cli

Logits = tuple[np.ndarray, np.ndarray]
SMALL = IllamaConfig(dim=32, depth=2, heads=2, image_size=(32, 32), patch_size=8, classes=4)


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["digits", "cifar10"])
def logits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Logits:
    """Real logits and labels."""
    checkpoint, data = "digits", "digits"
    if request.param == "cifar10":
        checkpoint = str(request.getfixturevalue("cifar_checkpoint"))
        data = request.getfixturevalue("cifar_data")
    path = tmp_path_factory.mktemp("logits") / "logits.npz"
    illama_deploy.evaluate(checkpoint, data=data, limit=300, save_logits=path)
    with np.load(path) as saved:
        return saved["logits"], saved["labels"]


def _figures(logits: Logits, binning: Binning | None = None) -> dict[str, Any]:
    accuracy = Accuracy(5, binning or Binning())
    for start in range(0, len(logits[1]), 100):
        accuracy.update(*(part[start : start + 100] for part in logits))
    return accuracy.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("bins", [10, 15, 40])
def test_calibration_agrees_with_other_libraries(logits: Logits, bins: int) -> None:
    from sklearn.metrics import brier_score_loss, log_loss
    from torchmetrics.functional.classification import multiclass_calibration_error

    values, labels = logits
    p = torch.from_numpy(values).double().softmax(1)
    figures = _figures(logits, Binning(bins))
    ece = multiclass_calibration_error(p, torch.from_numpy(labels), values.shape[1], n_bins=bins, norm="l1")
    assert figures["ece"] == pytest.approx(float(ece), abs=1e-6)
    classes = range(values.shape[1])
    assert figures["nll"] == pytest.approx(log_loss(labels, p.numpy(), labels=classes), abs=1e-6)
    brier = brier_score_loss(labels, p.numpy(), labels=classes, scale_by_half=False)
    assert figures["brier"] == pytest.approx(brier, abs=1e-6)


@pytest.mark.slow
def test_equal_mass_bins_are_those_of_scikit_learn(logits: Logits) -> None:
    from sklearn.calibration import calibration_curve

    values, labels = logits
    p = np.exp(log_softmax(values))
    correct, sure = values.argmax(1) == labels, p.max(1)
    count, right, summed = Binning(7, "equal-mass").reliability(correct, sure)
    known = calibration_curve(correct, sure, n_bins=7, strategy="quantile")
    assert count.sum() == len(labels)
    assert right / count == pytest.approx(known[0])
    assert summed / count == pytest.approx(known[1])


def test_temperature_is_the_best(logits: Logits) -> None:
    values, labels = logits
    # Half of the labels are moved, so that every set of logits has a best temperature.
    labels = np.where(np.arange(len(labels)) % 2, labels, (labels + 1) % values.shape[1])
    best = fit_temperature(values, labels)
    nll = [_figures((values / (best * factor), labels))["nll"] for factor in (0.999, 1.0, 1.001)]
    assert nll[1] < min(nll[0], nll[2])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_temperature_follows_the_scale_of_logits(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = 2 * rng.normal(size=(300, 5))
    labels = (values + rng.gumbel(size=values.shape)).argmax(1)  # drawn from softmax(values)
    found = fit_temperature(values, labels)
    assert 0.6 < found < 1.6
    assert fit_temperature(scale * values, labels) == pytest.approx(scale * found, rel=1e-6)


@pytest.mark.parametrize(("sign", "says"), [(1, "every answer is right"), (-1, "no better than guessing")])
def test_no_temperature_is_the_best(sign: int, says: str) -> None:
    labels = np.arange(50) % 5
    with pytest.raises(DataError, match=says):
        fit_temperature(sign * np.eye(5)[labels], labels)


@pytest.mark.parametrize("format_", [None, "W8A8", "W8A8-dynamic", "W4A16", "FP8"])
def test_temperature_folds_into_every_head(format_: str | None) -> None:
    torch.manual_seed(0)
    model = Illama(SMALL)
    nn.init.normal_(model.head.bias)
    if format_ is not None:
        float_head, kind = model.head, parse_format(format_)
        restructure_sites(model, {"head": kind})
        group = kind.group_for(SMALL.dim)
        weight = rounding_method("nearest").round(float_head.weight.detach(), kind.weights, clip="minmax", group=group)
        model.head.set_values(*weight, float_head.bias, torch.tensor(0.02) if kind.is_static else None)
    x = torch.randn(6, SMALL.dim)
    before = model.head(x)
    divide_logits(model, 2.0)
    assert torch.equal(model.head(x), before / 2)  # a power of two rounds nothing
    divide_logits(model, 1.37 / 2)
    assert torch.allclose(model.head(x), before / 1.37, rtol=1e-5, atol=1e-6)


def test_exported_temperature_changes_scales_alone(
    digits_quantized: QuantizedArtifact, digits_export: ExportResult, tmp_path: Path
) -> None:
    result = illama_deploy.export(digits_quantized.path, temperature=2.0, out=tmp_path / "onnx")
    images = np.random.default_rng(0).normal(size=(5, 1, 32, 32)).astype(np.float32)
    assert digits_export.model is not None and digits_export.float_model is not None
    assert result.model is not None and result.float_model is not None
    for plain, scaled in ((digits_export.model, result.model), (digits_export.float_model, result.float_model)):
        expected, found = (open_artifact(path, threads=1).run(images) for path in (plain, scaled))
        assert np.array_equal(found, expected / 2)
    integers = [
        {i.name: numpy_helper.to_array(i).tobytes() for i in onnx.load(path).graph.initializer if i.data_type != 1}
        for path in (digits_export.model, result.model)
    ]
    assert integers[0] == integers[1]
    assert json.loads((tmp_path / "onnx" / "export.json").read_text())["temperature"] == 2.0


# --- shape bias ------------------------------------------------------------------------------------------------------


def test_shape_ratio_of_known_decisions() -> None:
    cues = [("cat", "dog")] * 6 + [("dog", "car")] * 4 + [("car", "cat")] * 2
    shapes, textures = zip(*cues, strict=True)
    decisions = ["cat"] * 3 + ["dog"] * 1 + ["car"] * 2 + ["car"] * 4 + ["dog"] * 2
    found = shape_bias(shapes, textures, decisions)
    assert {key: found[key] for key in ("stimuli", "shape", "texture", "neither")} == {
        **{"stimuli": 12, "shape": 3, "texture": 5, "neither": 4}
    }
    assert found["ratio"][0] == 3 / 8
    assert 0 <= found["ratio"][1] < 3 / 8 < found["ratio"][2] <= 1
    assert [found["categories"][name]["ratio"] for name in ("car", "dog")] == [None, [0.0, 0.0, 0.0]]
    assert found["categories"]["cat"]["ratio"][0] == 3 / 4
    assert list(found["categories"]) == ["car", "cat", "dog"]


def test_categories_are_averaged_not_summed() -> None:
    p = np.array([[0.3, 0.35, 0.35, 0.0], [0.2, 0.5, 0.1, 0.2], [np.nan, 1, 1, 1]])
    with np.errstate(divide="ignore"):
        decisions = decide(np.log(np.maximum(p, 1e-9)), {"one": (0,), "three": (1, 2, 3)})
    # Summed, the three classes would win the first; a NaN decides nothing.
    assert decisions == ["one", "three", ""]


def test_imagenet_categories_are_the_study_s() -> None:
    categories = read_categories(None, 1000)
    assert len(categories) == 16
    assert categories["airplane"] == (404,)
    assert sum(map(len, categories.values())) == 207
    path = SHARED / "data" / "cue-conflict" / "imagenet16.json"
    if path.exists():
        assert read_categories(path, 1000) == categories


def _stimuli(root: Path, *names: str) -> Path:
    root.mkdir(parents=True)
    for number, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (20 * number, 90, 255 - 20 * number)).save(root / name)
    return root


def test_stimuli_in_one_folder_or_several(tmp_path: Path) -> None:
    stimuli = CueConflict(_stimuli(tmp_path / "a", "cat1-dog2.png", "dog/dog3-dog1.png", "dog/dog10-cat3.jpg"))
    assert (stimuli.shapes, stimuli.textures) == (("cat", "dog"), ("dog", "cat"))
    assert (len(stimuli), stimuli.no_conflict) == (2, 1)


def test_shape_bias_of_an_artifact(cli: Cli, tmp_path: Path) -> None:
    names = ["three1-seven1.png", "three2-one1.png", "seven1-one2.png", "one1-three1.png"]
    root = _stimuli(tmp_path / "stimuli", *names)
    mapping = tmp_path / "mapping.json"
    mapping.write_text('{"one": ["1"], "three": [3, "8"], "seven": [7]}')
    out = tmp_path / "out.json"
    code, shown, err = cli(
        *("evaluate", "digits", "--limit", 10, "--properties", "shape-bias", "--cue-conflict", root),
        *("--categories", mapping, "--json", out, "--html", tmp_path / "page.html"),
    )
    assert code == 0, err
    found = json.loads(out.read_text())["properties"]["shape_bias"]
    assert found["stimuli"] == 4
    assert found["mapping"] == {"one": [1], "three": [3, 8], "seven": [7]}
    transform = read_checkpoint("digits").preprocessing.transform()
    model = illama_deploy.load_checkpoint("digits").eval()
    with torch.inference_mode():
        p = torch.stack([model(transform(Image.open(root / name))[None]).softmax(1)[0] for name in sorted(names)])
    means = torch.stack([p[:, 1], p[:, [3, 8]].mean(1), p[:, 7]], 1)
    decisions = [("one", "three", "seven")[i] for i in means.argmax(1)]
    shapes = [name.partition("-")[0].rstrip("0123456789") for name in sorted(names)]
    assert found["shape"] == sum(map(str.__eq__, decisions, shapes))
    assert "Shape or texture" in shown
    assert "<svg" in (tmp_path / "page.html").read_text()


# --- attention rank --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [([1] * 10, 8), ([1] * 11, 9), ([1, 0, 0, 0], 1), ([8, 2], 1), ([7.9, 2.1], 2), ([4, 3, 2, 1, 0], 3), ([0, 0], 0)],
)
def test_rank_of_known_spectra(spectrum: list[float], rank: int) -> None:
    generator = torch.Generator().manual_seed(len(spectrum))
    size = len(spectrum)
    u, v = (torch.linalg.qr(torch.randn(3, size, size, generator=generator, dtype=torch.float64))[0] for _ in "uv")
    maps = u @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ v
    cumulative = singular_values(maps)
    assert cumulative[0] == pytest.approx(np.cumsum(spectrum) / max(sum(spectrum), 1))
    assert values_to_reach(cumulative).tolist() == [rank] * 3


def _by_hand(model: Illama, images: torch.Tensor, ratio: float) -> list[list[float]]:
    """Mean ranks by layer and head, from q and k."""
    maps: list[torch.Tensor] = []

    def look(attn: Attention, inputs: tuple[torch.Tensor, ...]) -> None:
        q, k, _ = attn.qkv(inputs[0]).unflatten(-1, (3, attn.heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        q, k = (apply_rope(x, attn.cos_SD, attn.sin_SD) for x in (q, k))
        tokens = q.shape[-2]
        mask = ratio + (1 - ratio) * torch.ones(tokens, tokens).tril()
        maps.append((q @ k.mT * attn.head_dim**-0.5).softmax(-1) * mask)

    model.set_soft_mask(ratio)
    hooks = [block.attn.register_forward_pre_hook(look) for block in model.blocks]
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()
    model.set_soft_mask(0.0)
    share = [np.linalg.svd(one.double().numpy(), compute_uv=False).cumsum(-1) for one in maps]
    return [(1 + (s < 0.8 * s[..., -1:]).sum(-1)).mean(0).tolist() for s in share]


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_rank_of_a_network(ratio: float) -> None:
    model = illama_deploy.load_checkpoint("digits").eval()
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(images)
    model.blocks[-1].attn.class_query_only = True
    found = measure_attention_rank(model, images.split(4), ratio)
    assert model.blocks[-1].attn.class_query_only
    assert torch.allclose(model(images), before, atol=1e-5)  # the network is as it was
    model.blocks[-1].attn.class_query_only = False
    assert np.array(found["rank"]) == pytest.approx(np.array(_by_hand(model, images, ratio)))
    assert (found["images"], found["tokens"]) == (6, model.config.tokens)
    curve = np.array(found["curve"])
    assert curve.shape == (model.config.depth, model.config.heads, 41)
    assert (curve[..., 0] == 0).all() and np.allclose(curve[..., -1], 1) and (np.diff(curve) >= 0).all()


@pytest.mark.slow
def test_rank_of_a_quantized_network(cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    ranks = {}
    for artifact in ("digits", digits_quantized.path):
        options = ("--limit", 64, "--properties", "attention-rank", "--mask", "causal", "--mask", "bidirectional")
        code, shown, err = cli("evaluate", artifact, *options, "--json", tmp_path / "out.json")
        assert code == 0, err
        assert "bidirectional" in shown
        found = json.loads((tmp_path / "out.json").read_text())["properties"]["attention_rank"]["masks"]
        ranks[str(artifact)] = [one["mean"] for one in found]
    float_ranks, integer_ranks = ranks.values()
    assert integer_ranks == pytest.approx(float_ranks, rel=0.02)
    assert integer_ranks != float_ranks
    assert abs(float_ranks[0] - float_ranks[1]) > 0.5


def test_quantized_maps_are_what_is_multiplied(tmp_path: Path) -> None:
    """With steps beyond every weight, nothing is left of a map."""
    path = tmp_path / "q"
    illama_deploy.quantize(calib_images=32, attention_products=True, out=path)
    model = load_quantized(path).model
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    fine = measure_attention_rank(model, [images])["mean"]
    for block in model.blocks:
        block.attn.pv.a_scale.fill_(1e3)  # type: ignore[union-attr,operator]
    assert measure_attention_rank(model, [images])["mean"] == 0 < fine


# --- corruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_corruptions_are_the_same_each_time() -> None:
    pytest.importorskip("imagecorruptions")
    corrupt = Corruptor(Preprocessing(size=(32, 32)))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = corruption_names()
    assert len(names) == 15
    for name in names:
        weak, strong, again = (corrupt(images, name, severity, 7) for severity in (1, 5, 5))
        assert torch.equal(strong, again), name
        assert strong.shape == images.shape
        assert not torch.equal(weak, strong), name
    moved = corrupt(images[1:], "gaussian_noise", 3, 8)
    assert torch.equal(corrupt(images, "gaussian_noise", 3, 7)[1:], moved)  # whatever the batches


def test_corruptions_of_an_artifact(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("imagecorruptions")
    torch.manual_seed(0)
    checkpoint = tmp_path / "small.safetensors"
    save_checkpoint(checkpoint, Illama(SMALL).state_dict(), SMALL, preprocessing=Preprocessing(size=(32, 32)))
    for label in range(4):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        Image.new("RGB", (32, 32), (60 * label, 9, 9)).save(tmp_path / "data" / str(label) / "0.png")
    code, shown, err = cli(
        *("evaluate", checkpoint, "--data", f"folder:{tmp_path / 'data'}", "--properties", "corruptions"),
        *("--corruption", "contrast", "--corruption", "fog", "--severity", 2, "--severity", 5),
        *("--json", tmp_path / "out.json"),
    )
    assert code == 0, err
    found = json.loads((tmp_path / "out.json").read_text())["properties"]["corruptions"]
    assert (found["images"], found["severities"]) == (4, [2, 5])
    assert {name: len(top1) for name, top1 in found["top1"].items()} == {"contrast": 2, "fog": 2}
    assert found["mean"] == pytest.approx(np.mean(list(found["top1"].values())))
    assert "fog" in shown


# --- all together ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_fits_a_temperature(
    cli: Cli, digits_export: ExportResult, digits_quantized: QuantizedArtifact, tmp_path: Path
) -> None:
    """On any artifact; folding the temperature gives the figures that were foreseen."""
    options = ("--split", "train", "--calib-split", "test", "--json", tmp_path / "out.json", "--bins", 10)
    code, shown, err = cli(
        "evaluate", digits_export.model, "--properties", "calibration", "--fit-temperature", *options
    )
    assert code == 0, err
    found = json.loads((tmp_path / "out.json").read_text())
    calibration = found["properties"]["calibration"]
    scaled = calibration["scaled"]
    assert (scaled["split"], scaled["images"]) == ("test", 898)
    assert len(calibration["reliability"]) == len(calibration["edges"]) - 1 == 10
    assert sum(count for count, _, _ in scaled["reliability"]) == found["images"]
    assert calibration["nll"][0] == pytest.approx(found["nll"])
    assert scaled["nll"][0] != calibration["nll"][0]
    assert f"{scaled['temperature']:.4f}" in shown
    folded = illama_deploy.export(
        digits_quantized.path, temperature=scaled["temperature"], float=False, out=tmp_path / "folded"
    )
    assert folded.model is not None
    figures = illama_deploy.evaluate(folded.model, split="train").figures
    assert figures["nll"] == pytest.approx(scaled["nll"][0], abs=1e-5)
    assert figures["top1"] == found["top1"]


def test_check_puts_properties_into_the_report(cli: Cli, digits_export: ExportResult, tmp_path: Path) -> None:
    code, _, err = cli(
        *("check", digits_export.model, "--baseline", "digits", "--data", "digits", "--limit", 60, "--rounds", 10),
        *("--batch", 1, "--no-sensitivity", "--properties", "calibration,attention-rank", "--binning", "equal-mass"),
        *("--bins", 6, "--rank-images", 16, "--out", tmp_path / "report"),
    )
    assert code in (0, 1, 3), err
    first, second = json.loads((tmp_path / "report" / "report.json").read_text())["artifacts"]
    assert first["properties"]["attention_rank"]["masks"][0]["images"] == 16
    assert "onnxruntime" in second["properties"]["attention_rank"]["not_measured"]
    for one in (first, second):
        assert one["properties"]["calibration"]["ece"][0] == one["accuracy"]["ece"]
        assert len(one["accuracy"]["reliability"]) == 6
    assert "Rank of attention maps" in (tmp_path / "report" / "report.html").read_text()
    assert "Attention rank" in (tmp_path / "report" / "report.md").read_text()
