"""The arithmetic of Q/DQ, rounding, quantized modules, and the directory they are kept in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from illama_deploy import ArtifactError, RecipeError, UsageError
from illama_deploy.affine import quantize, scale_of
from illama_deploy.formats import FORMATS, W8A8, IntType, parse_format
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.quant import (
    QuantizedArtifact,
    QuantLinear,
    QuantMatMul,
    find_sites,
    load_quantized,
    select_sites,
)
from illama_deploy.quant.quality import measure_sqnr, sqnr_db
from illama_deploy.recipe import Recipe
from illama_deploy.rounding import nearest

INT8 = IntType(8)


def _onnx_quantizer(unsigned: bool) -> ort.InferenceSession:
    kind, zero = (onnx.TensorProto.UINT8, np.uint8(128)) if unsigned else (onnx.TensorProto.INT8, np.int8(0))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])],
        "q",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"]),
            onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, []),
        ],
        [onnx.helper.make_tensor_value_info("q", kind, ["n"])],
        [onnx.numpy_helper.from_array(zero, "zero")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


SIGNED, UNSIGNED = _onnx_quantizer(False), _onnx_quantizer(True)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    halves=st.lists(st.integers(-300, 300), max_size=20),
    scale=st.floats(2**-20, 2**10, width=32),
)
def test_quantize_is_onnx_quantize_linear(values: list[float], halves: list[int], scale: float) -> None:
    ties = (np.array(halves, np.float32) + np.float32(0.5)) * np.float32(scale)
    x = np.concatenate((np.array(values, np.float32), ties))
    ours = quantize(torch.from_numpy(x), torch.tensor(scale), INT8).numpy()
    feed = {"x": x, "scale": np.array(scale, np.float32)}
    assert np.array_equal(SIGNED.run(None, feed)[0], ours)
    assert np.array_equal(UNSIGNED.run(None, feed)[0].astype(np.float32) - 128, ours)


@given(st.floats(0, 2.0**99, width=32), st.sampled_from([2, 4, 8]))
def test_scale_is_positive_and_maps_the_threshold_to_the_top(threshold: float, bits: int) -> None:
    dtype = IntType(bits)
    scale = scale_of(threshold, dtype)
    assert scale > 0
    if threshold > 1e-30:
        assert quantize(torch.tensor(threshold), scale, dtype) == dtype.qmax


def test_integer_ranges() -> None:
    assert (INT8.qmin, INT8.qmax, IntType(4).qmin, IntType(4).qmax) == (-128, 127, -8, 7)


@pytest.mark.parametrize("name", ["8", "w8a8", "W8A8"])
def test_formats_by_name(name: str) -> None:
    assert parse_format(name) is W8A8 is FORMATS["W8A8"]


def test_unknown_format() -> None:
    with pytest.raises(UsageError, match="'5'"):
        parse_format("5")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["minmax", "mse"]))
def test_nearest_is_within_half_a_step_of_what_it_keeps(seed: int, clip: str) -> None:
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(seed)) * 10.0 ** torch.arange(-3, 3)[:, None]
    integers, scale = nearest(weight, INT8, clip=clip)
    error = (integers * scale[:, None] - weight).abs()
    kept = weight.abs() <= 127.5 * scale[:, None]
    assert (error[kept] <= (0.5001 * scale[:, None]).expand_as(error)[kept]).all()
    if clip == "minmax":
        assert kept.all()


def test_mse_clip_is_no_worse_than_minmax() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    weight[:, 0] *= 6

    def error(clip: str) -> torch.Tensor:
        integers, scale = nearest(weight, IntType(4), clip=clip)
        return (integers * scale[:, None] - weight).square().sum(1)

    assert (error("mse") <= error("minmax")).all()
    assert error("mse").sum() < 0.9 * error("minmax").sum()


def test_unknown_clip() -> None:
    with pytest.raises(RecipeError, match="weight clip"):
        nearest(torch.ones(1, 1), INT8, clip="loose")


def _quant_linear(linear: nn.Linear, threshold: float) -> QuantLinear:
    twin = QuantLinear.like(linear, W8A8)
    twin.set_values(*nearest(linear.weight, INT8), linear.bias, scale_of(threshold, INT8))
    return twin


@torch.no_grad()
def test_quantized_linear_is_integer_arithmetic() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(512, 32)
    x = torch.randn(64, 512)
    twin = _quant_linear(linear, 4.0)
    q_x = np.clip(np.rint(x.numpy() / np.float32(twin.input_scale)), -128, 127).astype(np.int64)
    assert twin.bias_q is not None
    accumulator = q_x @ twin.weight_q.numpy().astype(np.int64).T + twin.bias_q.numpy()
    expected = accumulator.astype(np.float32) * twin.output_scale.numpy()
    assert np.array_equal(twin(x).numpy(), expected)
    assert sqnr_db(float(linear(x).square().sum()), float((linear(x) - twin(x)).square().sum())) > 35


@torch.no_grad()
def test_a_dead_channel_keeps_its_bias() -> None:
    linear = nn.Linear(4, 2)
    linear.weight[0] = 1e-20
    linear.bias.copy_(torch.tensor([3.0, -2.0]))
    torch.testing.assert_close(_quant_linear(linear, 1.0)(torch.zeros(1, 4))[0, 0], torch.tensor(3.0))


def test_quantized_product() -> None:
    torch.manual_seed(0)
    twin = QuantMatMul(W8A8)
    a, b = torch.rand(2, 3, 8, 16), torch.randn(2, 3, 16, 8)
    twin.a_scale.copy_(scale_of(a.max(), INT8))
    twin.b_scale.copy_(scale_of(b.abs().max(), INT8))
    assert sqnr_db(float((a @ b).square().sum()), float((a @ b - twin(a, b)).square().sum())) > 35


def _sites(**options: object) -> list[str]:
    config = IllamaConfig(dim=64, depth=2, heads=1, image_size=(8, 8), patch_size=4, classes=3)
    chosen = {"include": ["*"], "exclude": [], "attention_products": False, **options}
    return [site.name for site in select_sites(find_sites(Illama(config)), **chosen)]  # type: ignore[arg-type]


def test_sites() -> None:
    everything = _sites()
    assert len(everything) == 2 + 2 * 5
    assert {"patch_embed.proj", "head", "blocks.1.attn.qkv", "blocks.0.mlp.fc2"} <= set(everything)
    assert set(_sites(attention_products=True)) - set(everything) == {
        f"blocks.{i}.attn.{product}" for i in (0, 1) for product in ("qk", "pv")
    }
    assert _sites(include=["*.fc2", "head"], exclude=["blocks.0.*"]) == ["blocks.1.mlp.fc2", "head"]
    with pytest.raises(RecipeError, match="'stem'"):
        _sites(exclude=["stem"])


def test_recipe_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('range = "minmax"\nexclude = ["head"]\ncalib_images = 7\n')
    recipe = Recipe.read(path)
    assert recipe == Recipe(range="minmax", exclude=("head",), calib_images=7)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_shipped_recipe_is_the_default() -> None:
    assert Recipe.read("w8a8") == Recipe()


@pytest.mark.parametrize("name", ["W4A8", "W4A4", "W3A3", "W4A16", "W4A16-g64", "W2A16", "W8A8", "FP8", "W8A8-dynamic"])
def test_a_format_brings_its_recipe(name: str) -> None:
    recipe = Recipe.for_format(name)
    assert recipe.format == name
    shipped = name not in ("FP8", "W8A8-dynamic", "W8A8")
    assert (recipe.rounding == "gptaq") == shipped
    assert recipe.format_of("blocks.0.mlp.fc2").name == name
    exceptions = {"W4A8": "W8A8", "W4A4": "W8A8", "W3A3": "W8A8", "W2A16": "W4A16-g32"}
    assert {recipe.format_of(site).name for site in ("head", "patch_embed.proj")} == {exceptions.get(name, name)}


def test_round_trip(digits_quantized: QuantizedArtifact) -> None:
    again = load_quantized(digits_quantized.path)
    x = torch.randn(3, 1, 32, 32)
    assert torch.equal(again.model(x), digits_quantized.model(x))
    assert again.recipe == digits_quantized.recipe
    assert len(again.formats) == 12
    figures = again.manifest["sites"]["blocks.0.mlp.fc2"]
    assert figures["sqnr_db"] > 20
    assert figures["inputs"]["input"]["scale"] == pytest.approx(figures["inputs"]["input"]["threshold"] / 127)


def test_weights_of_another_manifest_are_refused(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_quantized.path, tmp_path / "copy")
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(ArtifactError, match="hash differs"):
        load_quantized(copy)


def test_other_schema_is_refused(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_quantized.path, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "schema": "illama-deploy/quantized/99"}))
    with pytest.raises(ArtifactError, match="quantized/99"):
        load_quantized(copy)


def test_sqnr_of_identical_networks_is_capped(digits_quantized: QuantizedArtifact) -> None:
    model = digits_quantized.model
    assert set(measure_sqnr(model, model, [torch.randn(2, 1, 32, 32)]).values()) == {200.0}
