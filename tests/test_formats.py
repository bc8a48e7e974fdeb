"""Formats beyond W8A8: from their names to the files that carry them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from illama_deploy import UsageError
from illama_deploy.affine import dequantize_weight, scale_of
from illama_deploy.affine import quantize as to_integers
from illama_deploy.errors import RecipeError
from illama_deploy.export.float_graph import SITE, site_rows
from illama_deploy.export.passes import ActivationSpelling, InsertQDQ
from illama_deploy.formats import BITS, FORMATS, FP8, FloatType, IntType, parse_format
from illama_deploy.quant import QuantConv2d, QuantizedArtifact, QuantLinear, quantized_modules, weight_only
from illama_deploy.quant.modules import QuantWeighted
from illama_deploy.quant.packing import pack, packed_bits, unpack
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe
from illama_deploy.rounding import nearest
from illama_deploy.runtime.onnx_file import read_onnx
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import export
from illama_deploy.steps.quantize import quantize
from illama_deploy.targets import TARGETS
from illama_deploy.targets.onnx_target import OnnxTarget
from illama_deploy.targets.table import target_rows

from .conftest import Cli

ONNX_TARGETS = [name for name, target in TARGETS.items() if isinstance(target, OnnxTarget)]

NAMES = ["W8A8", "W8A8-dynamic", "W4A8", "W4A4", "W3A3", "W4A16", "W2A16", "FP8"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, QuantizedArtifact]:
    folder = tmp_path_factory.mktemp("formats")
    return {name: quantize(format=name, calib_images=64, out=folder / name) for name in NAMES}


def test_names_are_read_back() -> None:
    assert list(FORMATS) == NAMES or set(FORMATS) == set(NAMES)
    for name, format_ in FORMATS.items():
        assert format_.name == name
        assert parse_format(name.lower()) == format_
    assert parse_format("W4A16-g64").name == "W4A16-g64"
    assert parse_format("W4A16-channel").group is None
    assert parse_format("W4A16-channel").name == "W4A16-channel"
    assert parse_format("W4A16-g128") == FORMATS["W4A16"]


@pytest.mark.parametrize("name", ["W4A8-g64", "W5A5", "W4A16-g48", "INT8", ""])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(UsageError, match="no quantized format"):
        parse_format(name)


@pytest.mark.parametrize(("inputs", "group"), [(768, 128), (192, 64), (48, 16), (512, 128), (2816, 128), (12, None)])
def test_groups_divide_the_inputs(inputs: int, group: int | None) -> None:
    assert FORMATS["W4A16"].group_for(inputs) == group
    assert parse_format("W4A16-channel").group_for(inputs) is None


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([2, 4]), st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_packing_is_undone(bits: int, values: list[int]) -> None:
    half = 2 ** (bits - 1)
    integers = torch.tensor(values, dtype=torch.int8).clamp(-half, half - 1)
    packed = pack(integers, bits)
    assert packed.numel() == -(-len(values) * bits // 8)
    assert torch.equal(unpack(packed, integers.shape, bits), integers)


def test_three_bits_take_four() -> None:
    assert [packed_bits(bits) for bits in (2, 3, 4, 8)] == [2, 4, 4, 8]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_fp8_is_the_onnx_type(seed: int) -> None:
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed)) * 3
    scale = scale_of(x.abs().max(), FloatType())
    expected = (x.numpy() / scale.numpy()).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(to_integers(x, scale, FloatType()).numpy(), expected)


def test_groups_have_their_own_steps() -> None:
    weight = torch.randn(3, 64) * torch.tensor([1.0, 100.0]).repeat_interleave(32)
    integers, scale = nearest(weight, IntType(4), group=32)
    assert scale.shape == (3, 2)
    whole, whole_scale = nearest(weight, IntType(4))
    error = (dequantize_weight(integers, scale) - weight)[:, :32].square().sum()
    assert error < 0.05 * (dequantize_weight(whole, whole_scale) - weight)[:, :32].square().sum()


@torch.no_grad()
def test_weight_only_is_a_float_layer() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 16)
    twin = QuantLinear.like(linear, FORMATS["W4A16"])
    twin.set_values(*nearest(linear.weight, IntType(4), group=32), linear.bias, None)
    x = torch.randn(5, 96)
    torch.testing.assert_close(twin(x), x @ twin.dequantized_weight().T + linear.bias)
    assert twin.input_scale is None


@torch.no_grad()
def test_dynamic_steps_follow_each_token() -> None:
    """A loud token must not coarsen its neighbours, as one range for the whole tensor would."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 16)
    twin = QuantLinear.like(linear, FORMATS["W8A8-dynamic"])
    twin.set_values(*nearest(linear.weight, IntType(8)), linear.bias, None)
    quiet = torch.randn(1, 64)
    loud = torch.cat((quiet, 1000 * torch.randn(1, 64)))
    torch.testing.assert_close(twin(loud)[:1], twin(quiet))
    assert torch.equal(twin(torch.zeros(1, 64)), linear.bias[None])
    assert (twin(quiet) - linear(quiet)).abs().max() < 0.02


@torch.no_grad()
def test_patch_embedding_in_every_format() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 8, 4, 4), torch.randn(2, 3, 8, 12)
    for name in ("W8A8", "W8A8-dynamic", "FP8"):
        twin = QuantConv2d.like(conv, FORMATS[name])
        format_ = FORMATS[name]
        step = scale_of(x.abs().max(), format_.activations) if format_.is_static else None
        twin.set_values(*nearest(conv.weight, format_.weights), conv.bias, step)
        assert (twin(x) - conv(x)).abs().max() < 0.1, name


@pytest.mark.slow
def test_four_bit_checkpoints_are_smaller(artifacts: dict[str, QuantizedArtifact]) -> None:
    size = {name: (artifact.path / "model.safetensors").stat().st_size for name, artifact in artifacts.items()}
    assert size["W4A8"] < 0.65 * size["W8A8"]
    assert size["W2A16"] < 0.75 * size["W4A16"]


@pytest.mark.slow
def test_formats_keep_their_accuracy(artifacts: dict[str, QuantizedArtifact]) -> None:
    least = {"W8A8": 30, "W8A8-dynamic": 30, "W4A8": 12, "W4A16": 15, "FP8": 22}
    for name, decibels in least.items():
        assert artifacts[name].manifest["logit_sqnr_db"] > decibels, name
    assert artifacts["W4A4"].manifest["logit_sqnr_db"] < artifacts["W4A8"].manifest["logit_sqnr_db"]


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(ONNX_TARGETS))
@pytest.mark.parametrize("name", NAMES)
def test_every_target_carries_the_same_network(
    artifacts: dict[str, QuantizedArtifact], tmp_path: Path, name: str, target: str
) -> None:
    """Layer by layer in its runtime, or refused with the nearest that works."""
    if target == "openvino":
        pytest.importorskip("openvino")
    artifact = artifacts[name]
    gap = None if TARGETS[target].runs(name) else TARGETS[target].missing[name]
    options = {"target": target, "float": False, "onnx_only": True, "out": tmp_path / "out"}
    if gap is not None:
        with pytest.raises(UsageError, match=f"no kernel for {name}") as refused:
            export(artifact.path, **options)  # type: ignore[arg-type]
        assert gap.nearest in (refused.value.hint or "")
        assert not (tmp_path / "out").exists()
        if not gap.can_simulate:
            return
    # Four and fewer bits turn a rounding of float16 or of another runtime into a whole step.
    verify = gap is None or target == "onnx-cpu"
    result = export(artifact.path, simulate=gap is not None, verify=verify, **options)  # type: ignore[arg-type]
    assert result.simulated == (gap is not None)
    if verify:
        assert result.parity is not None
        assert len(result.parity.layers) == 20
        assert result.parity.departs is None
    if gap is None and result.proof is not None:
        assert sum(result.proof.kernels.values()) == 16
        assert not result.proof.fed_by_dequantize
    agreement = evaluate(
        result.model, reference=artifact.path, backend="cpu" if target == "onnx-cuda" else None, limit=200
    ).figures["agreement"]  # type: ignore[arg-type]
    assert agreement >= (99 if gap is None or target == "onnx-cpu" else 90)


@pytest.mark.slow
def test_precisions_are_proven(artifacts: dict[str, QuantizedArtifact], tmp_path: Path) -> None:
    wanted = {"W8A8": "int8", "W8A8-dynamic": "int8", "W4A8": "int8", "W4A16": "int4 weights"}
    for name, precision in wanted.items():
        proof = export(artifacts[name].path, float=False, out=tmp_path / name).proof
        assert proof is not None
        assert {layer.precision for layer in proof.layers if layer.site is not None} == {precision}
        assert {layer.site for layer in proof.layers if layer.site is not None} == set(proof.expected)


def test_four_bit_file_on_integer_kernels(artifacts: dict[str, QuantizedArtifact]) -> None:
    graph = TARGETS["onnx-cpu"].built(artifacts["W4A8"].model, whole=False).graph
    stored = Counter(v.dtype for v in graph.initializers.values() if (v.name or "").endswith(".weight.integers"))
    assert stored == {ir.DataType.INT4: 14, ir.DataType.INT8: 2}  # the first and the last layer have 8 bits


def test_bits_alone_mean_what_targets_run() -> None:
    for bits, name in BITS.items():
        assert parse_format(bits).name == name
        for target in ("onnx-cpu", "openvino", "tensorrt"):
            assert TARGETS[target].runs(name), (name, target)
    with pytest.raises(UsageError, match="no quantized format '3'") as refused:
        parse_format("3")
    assert "`bits` 8 or 4" in str(refused.value)


def test_tensorrt_takes_four_bit_weights_alone(artifacts: dict[str, QuantizedArtifact], tmp_path: Path) -> None:
    """The integers of the checkpoint by blocks of inputs, a channel's step size at each; activations in float16."""
    artifact = artifacts["W4A8"]
    result = export(artifact.path, target="tensorrt", onnx_only=True, verify=True, float=False, out=tmp_path / "o")
    assert result.spelled == {"W4A8": "INT4 weight-only with float16 activations"}
    assert result.parity is not None
    assert min(layer.sqnr_db for layer in result.parity.layers) > 45
    nodes = list(ir.load(result.model).graph)  # type: ignore[arg-type]
    seen = set()
    for node in nodes:
        name = node.metadata_props.get(SITE)
        if name is None or name not in artifact.formats:
            continue
        seen.add(name)
        module = artifact.model.get_submodule(name)
        assert isinstance(module, QuantWeighted)
        dequantize = node.inputs[1].producer()  # type: ignore[union-attr]
        assert dequantize is not None
        values = [value.const_value.numpy() for value in dequantize.inputs[:2]]  # type: ignore[union-attr]
        rows = site_rows(node)
        expected = module.weight_q[rows].flatten(1).T.numpy()
        np.testing.assert_array_equal(values[0].astype(np.int8), expected)
        if artifact.formats[name].base == "W8A8":
            assert values[0].dtype == np.int8
            continue
        assert values[0].dtype == ml_dtypes.int4
        assert node.inputs[0].producer().op_type != "DequantizeLinear"  # type: ignore[union-attr]
        assert dequantize.attributes["block_size"].as_int() == {128: 64, 512: 128}[len(expected)]
        assert values[1].dtype == np.float16
        steps = module.weight_scale[rows].numpy().astype(np.float16)
        np.testing.assert_array_equal(values[1], np.broadcast_to(steps, values[1].shape))
    assert seen == set(artifact.formats)
    assert read_onnx(result.model).format == "W4A8 as INT4 weight-only with float16 activations"  # type: ignore[arg-type]


def test_weight_only_twin_is_the_float_function_of_the_same_integers(artifacts: dict[str, QuantizedArtifact]) -> None:
    artifact = artifacts["W4A8"]
    twin = weight_only(artifact.model, ["W4A8"])
    assert {m.format.base for n, m in quantized_modules(twin) if artifact.formats[n].base == "W4A8"} == {"W4A16"}
    assert {m.format.base for n, m in quantized_modules(artifact.model)} == {"W4A8", "W8A8"}
    x, name = torch.randn(3, 5, 128), "blocks.0.mlp.fc1"
    module = artifact.model.get_submodule(name)
    assert isinstance(module, QuantWeighted)
    wanted = x @ module.dequantized_weight().T + (module.float_bias if module.float_bias is not None else 0)
    torch.testing.assert_close(twin.get_submodule(name)(x), wanted)
    assert weight_only(artifact.model, ["FP8"]) is artifact.model


@pytest.mark.parametrize(("inputs", "stored"), [(256, (ml_dtypes.int4, 128)), (192, (ml_dtypes.int4, 64)),
                                                (64, (np.int8, None)), (100, (np.int8, None))])  # fmt: skip
def test_int4_by_blocks_that_tensorrt_knows(inputs: int, stored: tuple[type, int | None]) -> None:
    """Blocks of 128 or 64, several of them; what these do not cut is stored as INT8. Either way the same integers."""
    linear = nn.Linear(inputs, 8)
    module = QuantLinear.like(linear, parse_format("W4A16-channel"))
    module.set_values(*nearest(linear.weight, IntType(4)), linear.bias, None)
    spelling = ActivationSpelling(unsigned=False, integer_bias=False, blocks=(128, 64))
    steps, four_bits = InsertQDQ(nn.Module(), spelling)._spell(  # type: ignore[arg-type]
        module.weight_scale.numpy(), inputs, module.format
    )
    assert four_bits == (stored[0] is ml_dtypes.int4)
    assert steps.shape == ((8, inputs // stored[1]) if stored[1] else (8,))


def test_dynamic_answers_do_not_depend_on_the_batch(artifacts: dict[str, QuantizedArtifact], tmp_path: Path) -> None:
    from illama_deploy.targets.open import open_artifact

    run = open_artifact(export(artifacts["W8A8-dynamic"].path, float=False, out=tmp_path / "o").directory).run
    images = np.random.default_rng(0).standard_normal((3, 1, 32, 32), np.float32)
    images[2] *= 50
    np.testing.assert_allclose(run(images)[:2], run(images[:2]), atol=1e-4)


def test_weights_alone_leave_activations_in_float(artifacts: dict[str, QuantizedArtifact], tmp_path: Path) -> None:
    from illama_deploy.targets.open import open_artifact

    exported = export(artifacts["W4A16"].path, float=False, out=tmp_path / "o")
    images = np.random.default_rng(0).standard_normal((8, 1, 32, 32), np.float32)
    wanted, found = (open_artifact(path).run(images) for path in (artifacts["W4A16"].path, exported.directory))
    assert sqnr_db(float(np.square(wanted).sum()), float(np.square(found - wanted).sum())) > 90


@pytest.mark.slow
def test_overrides_decide_site_by_site(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"format": "W4A8", "overrides": {"*": "W4A8", "head": "W8A8", "patch_embed.*": "8"}})
    assert recipe.format_of("head").name == "W8A8"
    assert recipe.format_of("blocks.0.mlp.fc1").name == "W4A8"
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    artifact = quantize(recipe=recipe, calib_images=32, out=tmp_path / "q")
    assert artifact.formats["patch_embed.proj"].name == "W8A8"
    assert artifact.manifest["sites"]["head"]["format"] == "W8A8"
    proof = export(artifact.path, float=False, out=tmp_path / "o").proof
    assert proof is not None
    assert proof.holds


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"overrides": {"nothing.*": "W8A8"}}, "matches no site"),
        ({"overrides": "W8A8"}, "needs a table"),
        ({"overrides": {"head": 8}}, "needs a table"),
        ({"format": "W4A16", "attention_products": True}, "products of attention"),
    ],
    ids=["no-site", "text", "number", "products"],
)
def test_overrides_that_cannot_be(tmp_path: Path, values: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        quantize(recipe=Recipe.from_dict(values), calib_images=16, out=tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_products_may_be_eight_bits_beside_four(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "format": "W4A16",
            "attention_products": True,
            "overrides": {"blocks.*.attn.qk": "W8A8", "blocks.*.attn.pv": "8"},
        }
    )
    artifact = quantize(recipe=recipe, calib_images=32, out=tmp_path / "q")
    assert Counter(f.base for f in artifact.formats.values()) == {"W4A16": 12, "W8A8": 4}


def test_table_covers_every_pair() -> None:
    _, rows = target_rows()
    assert len(rows) == len(TARGETS) * len(FORMATS)
    for target in TARGETS.values():
        assert not set(target.kernels) & set(target.missing)


@pytest.mark.slow
def test_formats_through_the_cli(cli: Cli, tmp_path: Path) -> None:
    assert cli("quantize", "--format", "W4A8", "--calib-images", 32, "--workspace", tmp_path).code == 0
    result = cli("export", tmp_path / "quantized", "--onnx", "--verify", "--no-float", "--workspace", tmp_path)
    assert result.code == 0
    assert "compared with torch" in result.out
    refused = cli("export", tmp_path / "quantized", "--onnx", "--target", "cuda", "--out", tmp_path / "cuda")
    assert refused.code == 2
    assert "The nearest that works" in refused.err
    table = cli("doctor", "--targets").out
    assert "W4A4" in table
    assert "MatMulNBits" in table


@pytest.mark.parametrize(
    "options",
    [
        ["--bits", "8", "--format", "W4A8"],
        ["--format", "W9A9"],
        ["--bits", "5"],
    ],
    ids=["both", "unknown", "width"],
)
def test_wrong_formats(cli: Cli, tmp_path: Path, options: list[str]) -> None:
    result = cli("quantize", *options, "--out", tmp_path / "q")
    assert result.code == 2
    assert "  next:  " in result.err
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--onnx", "--target", "tpu"], "tpu"),
        (["--openvino", "--target", "cuda"], "--openvino"),
        (["--onnx", "--openvino"], "at once"),
        (["--onnx", "--float-only", "--no-float"], "--float-only"),
    ],
    ids=["unknown", "not-of-openvino", "two", "nothing-left"],
)
def test_wrong_targets(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path, options: list[str], says: str
) -> None:
    result = cli("export", digits_quantized.path, *options, "--out", tmp_path / "out")
    assert result.code == 2
    assert says in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_float_only(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    result = export(digits_quantized.path, target="onnx-cuda", float_only=True, out=tmp_path / "cuda")
    assert result.model is None
    assert evaluate(result.float_model, reference="digits", backend="cpu", limit=200).figures["agreement"] >= 99.5  # type: ignore[arg-type]


def test_fp8_has_no_bias_of_integers() -> None:
    twin = QuantLinear.like(nn.Linear(16, 4), FP8)
    assert twin.bias_q is None
    assert twin.weight_q.dtype == torch.float8_e4m3fn
