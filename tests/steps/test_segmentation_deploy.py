"""Classification of pixels, quantized: convolutions, graphs, proofs, engines, gates."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illama_deploy import ExportError, Recipe, UsageError
from illama_deploy.affine import scale_of
from illama_deploy.calib import collect_ranges
from illama_deploy.checkpoint import save_checkpoint
from illama_deploy.export.upernet_graph import _averages, _factor
from illama_deploy.formats import W8A8, IntType
from illama_deploy.hashing import canonical_json
from illama_deploy.measure.segmentation import PixelAccuracy, miou_drop, pack_confusions, unpack_confusions
from illama_deploy.model import Illama, UperNet
from illama_deploy.onnx_session import session_options
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.quant import (
    QuantConv2d,
    QuantConvTranspose2d,
    QuantizedArtifact,
    QuantReLU,
    divide_logits,
    find_sites,
    load_quantized,
    quantized_modules,
)
from illama_deploy.quant.learnable import freeze, make_learnable
from illama_deploy.quant.modules import gemm_operands
from illama_deploy.report import RENDERERS, read_report, seal
from illama_deploy.rewrites import apply_rewrites, rewrites_for
from illama_deploy.rounding import nearest
from illama_deploy.steps.bench import bench
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import export
from illama_deploy.steps.inspect import inspect
from illama_deploy.steps.qat import qat, rewritten_network
from illama_deploy.steps.quantize import quantize
from illama_deploy.steps.shared.calibrated import site_formats
from illama_deploy.targets import TARGETS
from illama_deploy.targets.onnx_cpu.proof import optimized_graph
from illama_deploy.targets.open import open_artifact
from illama_deploy.targets.openvino.session import compile_options
from illama_deploy.targets.tensorrt.sidecar import read_sidecar, sidecar_path, write_sidecar
from illama_deploy.tasks.pictures import draw_small

from ..conftest import Cli
from ..measure.test_segmentation import CONFIG, NAMES, _hard_network, _world

pytestmark = pytest.mark.slow

INT8 = IntType(8)
IMAGES = torch.randn(3, 3, *CONFIG.image_size, generator=torch.Generator().manual_seed(2))
CONVOLUTIONS = ("head.pyramid.conv", *(f"head.smooths.{i}.conv" for i in range(3)), "head.fuse.conv")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Place(NamedTuple):
    checkpoint: Path
    quantized: QuantizedArtifact
    data: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A random network for three classes with its data, quantized by default options."""
    from dataclasses import replace

    root = tmp_path_factory.mktemp("pixels")
    world = _world(_world(root / "world", images=12), images=4, split="validation")
    model = _hard_network(replace(CONFIG, classes=3))
    data, path = f"segmentation:{world}", root / "model.safetensors"
    preprocessing = Preprocessing(CONFIG.image_size, interpolation="bilinear")
    save_checkpoint(path, model.state_dict(), model.config, preprocessing, classes=NAMES, data=data)
    return Place(path, quantize(path, bits=8, data=data, out=root / "quantized"), data)


def _agreement(one: Tensor | np.ndarray, other: Tensor | np.ndarray) -> float:
    return float((np.asarray(one).argmax(1) == np.asarray(other).argmax(1)).mean())


# --- arithmetic


@torch.no_grad()
def test_convolutions_are_integer_arithmetic() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, 6, 7, 9)
    twin = QuantConv2d.like(conv, W8A8)
    twin.set_values(*nearest(conv.weight, INT8), conv.bias, scale_of(3.0, INT8))
    assert twin.bias_q is not None
    q_x = np.pad(
        np.clip(np.rint(x.numpy() / np.float32(twin.input_scale)), -128, 127), ((0, 0), (0, 0), (1, 1), (1, 1))
    )
    weight = twin.weight_q.numpy().astype(np.int64)
    sums = np.zeros((2, 5, 7, 9), np.int64) + twin.bias_q.numpy()[:, None, None]
    for i in range(3):
        for j in range(3):
            patch = q_x[:, :, i : i + 7, j : j + 9].astype(np.int64)
            sums += np.einsum("bchw,oc->bohw", patch, weight[:, :, i, j])
    assert np.array_equal(twin(x).numpy(), sums.astype(np.float32) * twin.output_scale.numpy()[:, None, None])


@pytest.mark.parametrize("name", ["W8A8-dynamic", "W4A16", "FP8"])
@torch.no_grad()
def test_convolutions_in_other_formats(name: str) -> None:
    """What `F.unfold` gives is convolved, padding and all: nearly as in float."""
    from illama_deploy.formats import parse_format

    torch.manual_seed(0)
    conv, x, format_ = nn.Conv2d(32, 5, 3, padding=1), torch.randn(2, 32, 7, 9), parse_format(name)
    twin = QuantConv2d.like(conv, format_)
    rounded = nearest(conv.weight, format_.weights, group=format_.group_for(conv.weight[0].numel()))
    twin.set_values(*rounded, conv.bias, scale_of(4.0, format_.activations or INT8))
    noise = (twin(x) - conv(x)).square().sum() / conv(x).square().sum()
    assert noise < (0.02 if name == "W4A16" else 0.005)


@torch.no_grad()
def test_transposed_convolutions_are_gemms() -> None:
    torch.manual_seed(0)
    conv, x = nn.ConvTranspose2d(6, 5, 2, 2), torch.randn(2, 6, 3, 4)
    weight, bias = gemm_operands(conv)
    assert weight.shape == (20, 6)
    twin = QuantConvTranspose2d.like(conv, W8A8)
    twin.set_values(*nearest(weight, INT8), bias, scale_of(3.0, INT8))
    y = twin(x)
    assert y.shape == (2, 5, 6, 8)
    assert float((y - conv(x)).abs().max()) < 0.05
    # The same integers in torch's own operator.
    assert twin.input_scale is not None
    q_x = torch.clamp(torch.round(x / twin.input_scale), -128, 127) * twin.input_scale
    back = twin.dequantized_weight().view(5, 2, 2, 6).permute(3, 0, 1, 2)
    assert twin.float_bias is not None
    expected = F.conv_transpose2d(q_x, back, stride=2)
    places = twin.float_bias.view(5, 2, 2)  # a bias of its own for each place of a square
    torch.testing.assert_close(y, expected + places.repeat(1, 3, 4), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_relu_commutes_with_rounding() -> None:
    relu = QuantReLU(W8A8)
    relu.scale.copy_(torch.tensor(0.02))
    x = torch.randn(1000) * 2
    q = torch.clamp(torch.round(x / relu.scale), -128, 127)
    assert torch.equal(relu(x), F.relu(q * relu.scale))


def test_sites_and_their_ranges() -> None:
    model = _hard_network()
    sites = {site.name: site for site in find_sites(model)}
    overlapping = [name for name, site in sites.items() if site.overlaps]
    assert sorted(overlapping) == sorted([*CONVOLUTIONS, *(name.replace("conv", "relu") for name in CONVOLUTIONS)])
    assert {name for name, site in sites.items() if not site.weighted and not site.is_product} == {
        name for name in overlapping if name.endswith("relu")
    }
    seen: list[Tensor] = []
    model.get_submodule("head.fuse.relu").register_forward_hook(lambda module, args, out: seen.append(out))
    found = collect_ranges(model, {"head.fuse.relu": ("input",)}, [IMAGES])
    assert found["head.fuse.relu/input"].maximum == pytest.approx(float(seen[0].max()))  # of what it lets through


# --- rewrites and rounding


def test_what_suits_a_task() -> None:
    names = ["fold_norms", "class_token_last_block", "fold_batch_norms"]
    classifier = Illama(dataclasses.replace(CONFIG, head_width=0))
    assert rewrites_for(names, classifier) == ("fold_norms", "class_token_last_block")
    assert rewrites_for(names, Illama(CONFIG)) == ("fold_batch_norms", "fold_norms")


def test_the_manifest_says_what_was_done(place: Place) -> None:
    rewrites = place.quantized.manifest["recipe"]["rewrites"]
    assert rewrites[0] == "fold_batch_norms"
    assert "class_token_last_block" not in rewrites
    assert not any(isinstance(module, nn.BatchNorm2d) for module in place.quantized.model.modules())


def test_quantized_network_is_near_the_float_one(place: Place) -> None:
    model = place.quantized.model
    floating = rewritten_network(place.quantized)
    with torch.no_grad():
        assert _agreement(model(IMAGES), floating(IMAGES)) > 0.93  # random weights: the classes are near each other
    assert place.quantized.manifest["logit_sqnr_db"] > 20


def test_learning_starts_and_ends_at_the_same_function(place: Place) -> None:
    model, target = copy.deepcopy(place.quantized.model), rewritten_network(place.quantized)
    with torch.no_grad():
        expected = model(IMAGES)
    model.requires_grad_(True)
    make_learnable(model, target, model.structure.shared_inputs(), float_share=0.5)
    loss = F.cross_entropy(model(IMAGES), torch.zeros(3, *CONFIG.image_size, dtype=torch.long))
    loss.backward()
    for name in ("head.fuse.conv.weight", "head.fuse.relu.learned.theta", "head.laterals.0.0.conv.weight_step.theta"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0
    freeze(model)
    with torch.no_grad():
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)


def test_qat_trains_the_quantized_network(place: Place, tmp_path: Path) -> None:
    """The network that comes out is another one, quantized as before, and exports."""
    result = qat(place.quantized.path, epochs=1, batch_size=4, lr=1e-3, out=tmp_path / "qat")
    assert set(result.figures) >= {"miou", "iou"}
    trained = load_quantized(result.path)
    assert trained.formats == place.quantized.formats
    assert "qat" in trained.manifest
    old, new = (dict(quantized_modules(model)) for model in (place.quantized.model, trained.model))
    for name in ("head.fuse.conv", "head.laterals.0.0.conv"):
        assert not torch.equal(old[name].get_buffer("weight_scale"), new[name].get_buffer("weight_scale"))
    proof = export(result.path, float=False, out=tmp_path / "onnx").proof
    assert proof is not None
    assert proof.holds


def test_gptq_rounds_what_reads_the_stream(place: Place, tmp_path: Path) -> None:
    recipe = Recipe(rounding="gptq")
    rounded = dict(quantized_modules(quantize(place.checkpoint, recipe=recipe, out=tmp_path / "q").model))
    plain = dict(quantized_modules(place.quantized.model))
    differ = {
        name
        for name, module in rounded.items()
        if "weight_q" in dict(module.named_buffers()) and not torch.equal(module.weight_q, plain[name].weight_q)
    }
    assert {f"head.reads.{i}" for i in range(4)} <= differ
    assert not differ & set(CONVOLUTIONS)


@pytest.mark.parametrize(
    ("name", "conv", "read"),
    [
        ("W4A8", "W4A8", "W4A8"),
        ("W8A8-dynamic", "W8A8", "W8A8-dynamic"),
        ("W4A16", "W8A8", "W4A16"),
        ("FP8", "W8A8", "FP8"),
    ],
)
def test_formats_of_convolutions(name: str, conv: str, read: str, place: Place, tmp_path: Path) -> None:
    artifact = quantize(place.checkpoint, recipe=Recipe(format=name), out=tmp_path / "q")
    assert artifact.formats["head.fuse.conv"].name == artifact.formats["head.fuse.relu"].name == conv
    assert artifact.formats["head.reads.0"].name == artifact.formats["head.laterals.0.1.conv"].name == read
    if name == "FP8":
        return
    result = export(artifact.path, float=False, out=tmp_path / "onnx")
    assert result.proof is not None
    assert result.proof.holds
    out = open_artifact(tmp_path / "onnx").run(IMAGES.numpy())
    with torch.no_grad():
        assert _agreement(out, artifact.model(IMAGES)) > 0.99


@pytest.mark.parametrize("name", ["W4A8", "W4A4", "W2A16"])
def test_shipped_recipes_leave_the_head_at_more_bits(name: str) -> None:
    recipe, model = Recipe.for_format(name), _hard_network()
    sites = find_sites(model)
    formats = (
        site_formats(sites, recipe, sites)
        if recipe.attention_products
        else site_formats([site for site in sites if not site.is_product], recipe, sites)
    )
    assert formats["blocks.0.mlp.fc1"].name.startswith(name[:2])
    assert {formats[name].weights for name in CONVOLUTIONS} == {INT8}
    assert not formats["head.reads.0"].name.startswith(name)


def test_what_cannot_be_quantized(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classifies pixels"):
        quantize(place.checkpoint, max_drop=1.0, out=tmp_path / "q")
    assert not (tmp_path / "q").exists()


@torch.no_grad()
def test_temperature_divides_every_logit(place: Place) -> None:
    for model in (_hard_network(), copy.deepcopy(place.quantized.model)):
        before = model(IMAGES)
        divide_logits(model, 2.0)
        torch.testing.assert_close(model(IMAGES), before / 2)


# --- graphs


@pytest.mark.parametrize(("old", "new"), [(3, 4), (6, 16), (3, 7), (6, 7), (2, 7), (11, 45), (90, 360)])
def test_resizing_comes_out_at_the_right_size(old: int, new: int) -> None:
    assert int(np.float32(old) * _factor(old, new)) == int(old * float(_factor(old, new))) == new


@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_pooling_is_a_product(cells: int) -> None:
    x = torch.randn(2, 3, 7, 8)
    pooled = (x.flatten(2) @ _averages((7, 8), cells)).view(2, 3, cells, cells)
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, cells))


def _run(target: str, graph: ir.Model, path: Path) -> np.ndarray:
    ir.save(graph, path)
    if target == "openvino":
        ov = pytest.importorskip("openvino")
        compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **compile_options()})
        return np.array(compiled({0: IMAGES.numpy()})[0])
    session = ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": IMAGES.numpy()})[0]


@pytest.mark.parametrize("target", ["onnx-cpu", "openvino", "tensorrt"])
@torch.no_grad()
def test_graphs_agree_with_torch(target: str, place: Place, tmp_path: Path) -> None:
    half = target == "tensorrt"
    for model, least in ((_hard_network(), 0.999), (place.quantized.model, 0.99)):
        found = _run(target, TARGETS[target].built(model), tmp_path / "model.onnx")
        expected = model(IMAGES)
        assert _agreement(found, expected) >= (0.95 if half else least)
        # Half precision rounds some values to other integers, and a random network makes much of it.
        assert half or float(np.abs(found - expected.numpy()).max()) < 0.05 * float(expected.abs().max())


@torch.no_grad()
def test_onnxruntime_gives_the_integers_of_torch(place: Place, tmp_path: Path) -> None:
    found = _run("onnx-cpu", TARGETS["onnx-cpu"].built(place.quantized.model), tmp_path / "model.onnx")
    noise = np.abs(found - place.quantized.model(IMAGES).numpy())
    # One that rounds otherwise, on another machine, moves a logit by about a step; most must not move at all.
    assert np.median(noise) < 1e-5


def test_convolutions_run_on_integers(place: Place, tmp_path: Path) -> None:
    result = export(place.quantized.path, verify=True, out=tmp_path / "onnx")
    assert result.proof is not None
    assert result.parity is not None
    assert result.parity.departs is None
    assert result.proof.kernels["QLinearConv"] == 5
    assert set(CONVOLUTIONS) <= set(result.proof.expected)
    assert result.model is not None
    kinds = Counter(node.op_type for node in optimized_graph(result.model).graph.all_nodes())
    assert not kinds["Conv"] + kinds["FusedConv"] + kinds["ConvTranspose"] + kinds["FusedGemm"]
    assert all("attn" in name or "means" in name for name in result.proof.float_gemms)
    assert {layer.name for layer in TARGETS["onnx-cpu"].parity(place.quantized.model).layers} >= {
        "head.fuse.relu",
        "head.classifier",
    }


def test_openvino_runs_them_on_integers(place: Place, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    result = export(place.quantized.path, target="openvino", float=False, out=tmp_path / "openvino")
    assert result.proof is not None
    assert {layer.site for layer in result.proof.layers if layer.kernel.startswith("Convolution")} == set(CONVOLUTIONS)


def test_a_recipe_may_leave_them_in_float(place: Place, tmp_path: Path) -> None:
    """Both belong together: a convolution whose result has no step size has no integer kernel, and that is an error."""
    artifact = quantize(place.checkpoint, bits=8, exclude=["head.fuse.conv", "head.fuse.relu"], out=tmp_path / "q")
    proof = export(artifact.path, float=False, out=tmp_path / "onnx").proof
    assert proof is not None
    assert proof.kernels["QLinearConv"] == 4
    assert sum(name.startswith("head.fuse") for name in proof.float_gemms) == 1
    half = quantize(place.checkpoint, bits=8, exclude=["head.fuse.relu"], out=tmp_path / "half")
    with pytest.raises(ExportError, match="1 of them fed by DequantizeLinear") as refused:
        export(half.path, float=False, out=tmp_path / "refused")
    assert "head.fuse.conv" in str(refused.value.where)


def test_any_batch_size(place: Place, tmp_path: Path) -> None:
    export(place.quantized.path, float=False, out=tmp_path / "onnx")
    runtime = open_artifact(tmp_path / "onnx")
    assert (runtime.task, runtime.classes) == ("segmentation", 3)
    whole = runtime.run(IMAGES.repeat(5, 1, 1, 1).numpy())
    assert whole.shape == (15, 3, *CONFIG.image_size)
    for batch in (1, 2):
        np.testing.assert_array_equal(runtime.run(IMAGES[:batch].numpy()), whole[:batch])


def test_engines_build_without_a_gpu(place: Place, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = export(
        place.quantized.path, target="tensorrt", flavor="rtx", compute_capabilities=["8.9"], out=tmp_path / "trt"
    )
    assert len(result.engines) == 2
    sidecar = read_sidecar(result.engines[0])
    assert sidecar.logits == (3, *CONFIG.image_size)
    assert sidecar.classes == 3
    record = json.loads(sidecar_path(result.engines[0]).read_text())
    write_sidecar(result.engines[0], {**record, "output": {"name": "logits", "shape": [3, 5, 5]}})
    with pytest.raises(Exception, match="shape of its logits"):
        read_sidecar(result.engines[0])


def test_factors_stay_float32_in_half_precision(place: Place) -> None:
    graph = TARGETS["tensorrt"].built(place.quantized.model).graph
    factors = [node.inputs[2] for node in graph if node.op_type == "Resize"]
    assert {value.dtype for value in factors if value is not None} == {ir.DataType.FLOAT}
    assert len(factors) == 11


# --- steps


def test_steps_of_one_network(place: Place, tmp_path: Path) -> None:
    """What lies in the directory is what was quantized; evaluate, bench and inspect take every form of it."""
    loaded = load_quantized(place.quantized.path)
    with torch.no_grad():
        assert torch.equal(loaded.model(IMAGES), place.quantized.model(IMAGES))
    onnx = export(place.quantized.path, out=tmp_path / "onnx").model
    assert onnx is not None
    figures = evaluate(onnx, reference=place.quantized.path).figures
    assert figures["agreement"] >= 99
    assert figures["images"] == 4
    times = bench([place.checkpoint, place.quantized.path, onnx], rounds=10)
    assert all(len(row[0].seconds) == 10 for row in times.latencies)
    shutil.copytree(place.quantized.path, tmp_path / "quantized")
    sites = inspect(tmp_path / "quantized").figures["sites"]
    kernels = {site["name"]: site["kernel"] for site in sites}
    assert kernels["head.fuse.conv"] == "QLinearConv"
    assert kernels["head.laterals.0.0.conv"] == "QGemm"


@pytest.fixture(scope="module")
def report(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from illama_deploy.steps.check import check

    root = tmp_path_factory.mktemp("check")
    export(place.quantized.path, out=root / "onnx")
    check(
        [root / "onnx"], rounds=10, batch=[1], max_drop=60, max_latency_ratio=50, sensitivity=False, out=root / "report"
    )
    return root / "report"


def test_check_gates_miou(report: Path) -> None:
    content = read_report(report / "report.json")
    assert content["data"]["task"] == "segmentation"
    gates = {gate["name"]: gate for gate in content["gates"]}
    assert set(gates) - {"chance"} == {"miou_drop", "latency_ratio"}  # it was hardly trained
    assert gates["miou_drop"]["verdict"] == "pass"
    baseline, candidate = content["artifacts"]
    assert set(candidate["accuracy"]["iou"]) == set(NAMES)
    assert candidate["comparison"]["miou_drop"] == pytest.approx(
        baseline["accuracy"]["miou"] - candidate["accuracy"]["miou"]
    )
    low, high = candidate["comparison"]["intervals"]["miou_drop"]
    assert low <= candidate["comparison"]["miou_drop"] <= high
    assert {picture["shows"] for picture in content["pictures"]} == {
        "labels",
        baseline["info"]["name"],
        candidate["info"]["name"],
    }
    assert len(content["pictures"]) == 12


def test_every_face_shows_it(report: Path) -> None:
    content = read_report(report / "report.json")
    miou = content["artifacts"][1]["accuracy"]["miou"]
    figures = {"md": f"{miou:.2f}", "html": f"{miou:.2f}", "csv": str(miou)}
    for name, renderer in RENDERERS.items():
        text = (report / renderer.file).read_text(encoding="utf-8")
        assert text == renderer.render(content)
        assert ("mIoU" if name != "csv" else "miou_drop_low") in text
        assert figures.get(name, "") in text
        assert "top-1" not in text
    html = (report / "report.html").read_text(encoding="utf-8")
    assert html.count('<img src="data:image/jpeg;base64,') == 12
    assert all(f">{name}<" in html for name in NAMES)


def test_against_a_stored_report(report: Path, cli: Cli, tmp_path: Path) -> None:
    arguments = ("--rounds", 10, "--batch", 1, "--no-sensitivity", "--max-drop", 60, "--max-latency-ratio", 50)
    stored = report / "report.json"
    result = cli("check", report.parent / "onnx", *arguments, "--against", stored, "--out", tmp_path / "report")
    assert result.code in (0, 1, 3), result.err
    gates = {gate["name"]: gate for gate in read_report(tmp_path / "report" / "report.json")["gates"]}
    assert gates["miou_change"]["value"] == gates["miou_change"]["low"] == gates["miou_change"]["high"] == 0
    content = json.loads(stored.read_text())
    content["data"]["task"] = "classification"
    (tmp_path / "other.json").write_text(canonical_json(seal(content)))
    options = ("--against", tmp_path / "other.json", "--out", tmp_path / "again")
    other = cli("check", report.parent / "onnx", *arguments, *options)
    assert other.code == 2 and "other.json" in other.err  # its figures are of pixels
    history = cli("report", "--history", tmp_path / "report", "--out", tmp_path)
    assert history.code == 0, history.err
    assert "Drop in mIoU" in (tmp_path / "history.html").read_text()


# --- the interval of a drop


def _confusions(rng: np.random.Generator, images: int, right: float) -> list[np.ndarray]:
    made = PixelAccuracy(3)
    for _ in range(images):
        labels = rng.integers(0, 3, (20, 20))
        guesses = np.where(rng.random((20, 20)) < right, labels, rng.integers(0, 3, (20, 20)))
        made.update(F.one_hot(torch.from_numpy(guesses), 3).permute(2, 0, 1).float(), labels)
    return made.confusions


def _miou(confusions: Sequence[np.ndarray]) -> Any:
    return PixelAccuracy(3, list(confusions)).to_dict()["miou"]


def test_drop_in_miou() -> None:
    rng = np.random.default_rng(0)
    before, after = _confusions(rng, 30, 0.9), _confusions(rng, 30, 0.8)
    assert miou_drop(before, before) == (0, 0, 0)
    drop = miou_drop(before, after)
    assert drop.value == pytest.approx(_miou(before) - _miou(after))
    assert drop.low < drop.value < drop.high
    turned = miou_drop(after, before)
    assert turned.value == -drop.value
    # Pairs are drawn together: what differs from image to image, and not between the two, widens nothing.
    hard = [_confusions(rng, 1, right)[0] for right in np.linspace(0.3, 1, 30)]
    worse = [matrix.copy() for matrix in hard]
    for matrix in worse:
        matrix[0, 0] -= 5
        matrix[0, 1] += 5
    paired, shuffled = miou_drop(hard, worse), miou_drop(hard, worse[::-1])
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_confusions_survive_as_text() -> None:
    before = _confusions(np.random.default_rng(1), 5, 0.7)
    after = unpack_confusions(pack_confusions(before), 3, len(before))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_pictures_are_small() -> None:
    from PIL import Image

    labels = np.full((300, 400), -100)
    labels[:100] = 2
    uri = draw_small(Image.new("RGB", (400, 300), "white"), labels, NAMES)
    assert len(uri) < 20_000


def test_what_is_read_of_a_network() -> None:
    """A head with BatchNorms is folded for a graph, and left alone itself."""
    model = _hard_network()
    TARGETS["onnx-cpu"].built(model)
    assert isinstance(model.head, UperNet)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    folded: Illama = copy.deepcopy(model)
    apply_rewrites(folded, ["fold_batch_norms"])
    apply_rewrites(folded, ["fold_batch_norms"])  # nothing is left to fold
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
