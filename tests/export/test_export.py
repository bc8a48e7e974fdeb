"""Graph passes one by one, then whole files against torch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx_ir.passes import PostconditionError, PreconditionError

from illama_deploy import ExportError
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.export import build_float_graph
from illama_deploy.export.batches import proof_batches
from illama_deploy.export.float_graph import GraphBuilder
from illama_deploy.export.layout import BATCH_MAJOR, SEQUENCE_MAJOR, Layout
from illama_deploy.export.passes import (
    ActivationSpelling,
    HalfPrecision,
    HoistQuantize,
    InsertQDQ,
    MicroBatch,
    RemoveDead,
)
from illama_deploy.export.record import read_record
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.model.illama import CausalAttention
from illama_deploy.onnx_metadata import PREFIX
from illama_deploy.onnx_session import session_options
from illama_deploy.quant import QuantizedArtifact, load_quantized
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe
from illama_deploy.rewrites import apply_rewrites, online_rotations
from illama_deploy.steps.export import ExportResult, export
from illama_deploy.steps.quantize import quantize
from illama_deploy.targets import TARGETS
from illama_deploy.targets.onnx_cpu import micro_batch
from illama_deploy.targets.onnx_cpu.proof import optimized_graph, prove_onnxruntime
from illama_deploy.targets.onnx_target import OnnxTarget
from illama_deploy.targets.open import open_artifact

from ..conftest import Cli

ONNX_TARGETS = [name for name, target in TARGETS.items() if isinstance(target, OnnxTarget)]

U8 = ActivationSpelling(unsigned=True, integer_bias=True)
S8 = ActivationSpelling(unsigned=False, integer_bias=False)


def _run(model: ir.Model | Path, images: torch.Tensor, *, optimize: bool = True) -> np.ndarray:
    options = session_options()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]  # type: ignore[no-any-return]


def _kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def _network(**change: object) -> Illama:
    torch.manual_seed(0)
    geometry = {"dim": 64, "depth": 2, "heads": 2, "image_size": (16, 24), "patch_size": 8, "classes": 5, "hidden": 96}
    model = Illama(IllamaConfig(**{**geometry, **change}))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(
    "rewrites", [[], ["fold_norms", "fold_attention_scale", "class_token_last_block"]], ids=["plain", "rewritten"]
)
@torch.no_grad()
def test_float_graph_is_the_network(rewrites: list[str], batch: int) -> None:
    model = _network()
    apply_rewrites(model, rewrites)
    images = torch.randn(batch, 3, 16, 24)
    np.testing.assert_allclose(_run(build_float_graph(model), images), model(images).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [SEQUENCE_MAJOR, BATCH_MAJOR], ids=["sequence-major", "batch-major"])
@torch.no_grad()
def test_online_rotations_are_gemms_with_one_matrix(layout: Layout) -> None:
    model = _network(hidden=160)
    images = torch.randn(3, 3, 16, 24)
    expected = model(images).numpy()
    apply_rewrites(model, ["class_token_last_block", "rotate_qk_online", "rotate_swiglu_online"])
    graph = build_float_graph(model, layout)
    np.testing.assert_allclose(_run(graph, images), expected, rtol=1e-4, atol=1e-4)
    gemms = [node for node in graph.graph if node.op_type == "MatMul" and ".rotate" in (node.name or "")]
    turned = {node.name: node.inputs[1] for node in gemms}
    assert turned.keys() == online_rotations(model).keys()
    assert len(set(turned.values())) == 2  # one for all heads, one for all hidden channels


#: Geometries whose batches in the test are larger than their 7, 2 and 2 tokens; the last has more heads than tokens.
FEW_TOKENS: tuple[dict[str, Any], ...] = ({}, {"image_size": (8, 8)}, {"image_size": (8, 8), "heads": 8})


@pytest.mark.slow
@pytest.mark.parametrize("change", FEW_TOKENS, ids=str)
@pytest.mark.parametrize("target", ONNX_TARGETS)
@torch.no_grad()
def test_batches_of_more_images_than_tokens(target: str, change: dict[str, Any]) -> None:
    model = _network(**change)
    apply_rewrites(model, ["fold_norms", "fold_attention_scale", "class_token_last_block"])
    images = torch.randn(9, 3, *model.config.image_size)
    expected = model(images).numpy()
    for whole in (True, False):
        graph = TARGETS[target].built(model, whole=whole)
        for batch in (1, 2, 3, 7, 8, 9):
            found = _run(graph, images[:batch])
            tolerance = 1e-4 if TARGETS[target].float_format == "float32" else 0.1
            np.testing.assert_allclose(found, expected[:batch], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("target", ONNX_TARGETS)
def test_every_file_is_run_at_more_images_than_tokens(tmp_path: Path, target: str) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    quantize("digits", image_size=(16, 16), calib_images=64, format="W4A16", out=tmp_path / "q")
    result = export(tmp_path / "q", target=target, onnx_only=True, verify=True, out=tmp_path / "out")
    assert result.batches == (1, 3, 18, 64)
    assert read_record(result.directory).batches == [1, 3, 18, 64]
    for path in (result.model, result.float_model):
        assert path is not None
        images = np.random.default_rng(0).standard_normal((65, 1, 16, 16), dtype=np.float32)
        assert open_artifact(path, backend="cpu").run(images).shape == (65, 10)


def test_a_file_that_depends_on_the_batch_is_not_kept(
    digits_quantized: QuantizedArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: images along the operator's sequence, so that its tables end before the batch does."""

    def rope(self: GraphBuilder, attn: CausalAttention, x: ir.Value, span: range, name: str) -> ir.Value:
        cos, sin = (self.constant(f"rope.{n}", t.numpy()) for n, t in (("cos", attn.cos_SD), ("sin", attn.sin_SD)))
        tokens = np.array(span, dtype=np.int64)[:, None]
        shape = self.op("Concat", [self.integers(len(tokens)), self.batch], {"axis": 0}, name=f"{name}.shape")
        ids = self.op("Expand", [self.constant(f"ids.{span.start}", tokens), shape], name=f"{name}.ids")
        flat = self.reshape(x, (len(tokens), -1, self.config.dim), f"{name}.flat")
        attributes = {"interleaved": 1, "num_heads": attn.heads}
        turned = self.op("RotaryEmbedding", [flat, cos, sin, ids], attributes, name=f"{name}.rope")
        return self.reshape(turned, (len(tokens), -1, attn.heads, attn.head_dim), f"{name}.turned")

    monkeypatch.setattr(GraphBuilder, "rope", rope)
    monkeypatch.setattr("illama_deploy.targets.onnx_cpu.CACHE_BYTES", 1e9)
    with pytest.raises(ExportError, match="fails on a batch of 66"):
        export(digits_quantized.path, float=False, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_batches_of_a_large_network_are_bounded() -> None:
    with torch.device("meta"):
        small = Illama(IllamaConfig(192, 12, 3))
        large = Illama(IllamaConfig(1024, 24, 16, image_size=(384, 384)))
    assert proof_batches(small) == (1, 3, 64, 198)
    assert proof_batches(small, others=(1, 256)) == (1, 3, 64, 198, 256)
    assert proof_batches(large) == (1, 3, 22)
    assert max(proof_batches(large, whole=True)) == 100


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "(is not finite|does not fit)"), (0.0, "not above 0"), (-1.0, "not above 0")]
)
@pytest.mark.parametrize("target", ONNX_TARGETS)
def test_unsound_constants_are_never_written(
    digits_quantized: QuantizedArtifact, target: str, value: float, says: str
) -> None:
    model = load_quantized(digits_quantized.path).model
    model.blocks[0].mlp.fc2.weight_scale[3] = value  # type: ignore[operator, index]
    with pytest.raises(ExportError, match=rf"fc2\.weight.* {says}"):
        TARGETS[target].built(model)


@pytest.mark.slow
@pytest.mark.parametrize("target", ONNX_TARGETS)
def test_float_checkpoints_have_a_float_file(cli: Cli, tmp_path: Path, target: str) -> None:
    """Of `.pth`, `.safetensors` and the embedded one; the same file as beside the quantized one."""
    if target == "openvino":
        pytest.importorskip("openvino")
    checkpoint = read_checkpoint("digits")
    torch.save({"model": dict(checkpoint.state)}, tmp_path / "bare.pth")
    result = export("digits", target=target, onnx_only=True, out=tmp_path / "a")
    assert result.model is None
    assert result.float_model == tmp_path / "a" / "model.float.onnx"
    about = {p.key.removeprefix(PREFIX): p.value for p in onnx.load(result.float_model).metadata_props}
    assert about["format"] == TARGETS[target].float_format
    assert about["target"] == target
    assert about["source_sha256"] == checkpoint.sha256
    assert json.loads(about["classes"]) == list(checkpoint.classes)
    assert "manifest_sha256" not in about
    record = read_record(result.directory, files=True)
    assert (record.manifest_sha256, record.source_sha256) == (None, checkpoint.sha256)
    images = torch.randn(3, 1, 32, 32)
    expected = checkpoint.build()(images).detach().numpy()
    for artifact in (result.directory, result.float_model):
        runtime = open_artifact(artifact, backend="cpu")
        assert runtime.info.format == TARGETS[target].float_format
        noise = np.square(runtime.run(images.numpy()) - expected).sum()
        assert sqnr_db(float(np.square(expected).sum()), float(noise)) > 35
    if target == "onnx-cpu":
        options = ("--onnx", "--heads", checkpoint.config.heads, "--image-size", "32", "--verify")
        assert cli("export", tmp_path / "bare.pth", *options, "--out", tmp_path / "b").code == 0
        assert cli("bench", tmp_path / "b", result.directory, "--rounds", 10).code == 0


def test_options_of_the_other_kind_of_checkpoint(cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    for path, options in (
        ("digits", ("--no-float",)),
        ("digits", ("--simulate",)),
        ("digits", ("--source", "digits")),
        (digits_quantized.path, ("--heads", 2)),
        (digits_quantized.path, ("--ema",)),
        (tmp_path / "gone.pth", ()),
    ):
        result = cli("export", path, "--onnx", *options, "--out", tmp_path / "out")
        assert result.code == 2
        assert "  next:  " in result.err
        assert "Unexpected" not in result.err
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_soft_mask_is_exported_as_it_stands() -> None:
    model = _network()
    model.set_soft_mask(0.4)
    images = torch.randn(2, 3, 16, 24)
    np.testing.assert_allclose(_run(build_float_graph(model), images), model(images).numpy(), rtol=1e-4, atol=1e-4)


def test_runtime_fuses_what_the_graph_is_written_for(tmp_path: Path) -> None:
    model = _network(depth=3)
    apply_rewrites(model, ["fold_norms", "fold_attention_scale", "class_token_last_block"])
    graph = build_float_graph(model)
    ir.save(graph, tmp_path / "float.onnx")
    kinds = _kinds(optimized_graph(tmp_path / "float.onnx"))
    assert kinds["QuickGelu"] == 3
    assert kinds["RMSNormalization"] == 7
    assert kinds["RotaryEmbedding"] == 6
    assert kinds["FusedMatMul"] == 6
    assert kinds["Transpose"] == 3 + 1  # one a block for the attention's output, one for the patches


@pytest.fixture
def quantized_graph(digits_quantized: QuantizedArtifact) -> ir.Model:
    return build_float_graph(digits_quantized.model)


def test_insert_qdq_gives_every_gemm_integers(quantized_graph: ir.Model, digits_quantized: QuantizedArtifact) -> None:
    InsertQDQ(digits_quantized.model, U8)(quantized_graph)
    integers = [v for name, v in quantized_graph.graph.initializers.items() if name.endswith("weight.integers")]
    assert len(integers) == 16  # 12 sites, queries, keys and values apart
    stored = digits_quantized.model.get_submodule("blocks.0.attn.qkv").weight_q.numpy()  # type: ignore[union-attr, operator]
    keys = quantized_graph.graph.initializers["blocks.0.attn.qkv.k.weight.integers"].const_value
    assert keys is not None
    assert np.array_equal(keys.numpy(), stored[128:256].T)


@pytest.mark.parametrize("spelling", [U8, S8], ids=["u8", "s8"])
@torch.no_grad()
def test_both_spellings_are_the_same_numbers(
    quantized_graph: ir.Model, digits_quantized: QuantizedArtifact, spelling: ActivationSpelling
) -> None:
    InsertQDQ(digits_quantized.model, spelling)(quantized_graph)
    images = torch.randn(4, 1, 32, 32)
    expected = digits_quantized.model(images).numpy()
    actual = _run(quantized_graph, images, optimize=False)
    assert sqnr_db(float(np.square(expected).sum()), float(np.square(actual - expected).sum())) > 35


@torch.no_grad()
def test_one_input_that_sites_quantize_each_in_its_way(digits_quantized: QuantizedArtifact) -> None:
    model = load_quantized(digits_quantized.path).model
    model.blocks[0].mlp.fc3.input_scale *= 1.3  # type: ignore[operator]
    images = torch.randn(4, 1, 32, 32)
    expected = model(images).numpy()
    for name in ("onnx-cpu", "openvino"):
        graph = TARGETS[name].built(model)
        onnx.checker.check_model(ir.serde.serialize_model(graph))
        actual = _run(graph, images)
        assert sqnr_db(float(np.square(expected).sum()), float(np.square(actual - expected).sum())) > 30


def test_insert_qdq_requires_the_sites(digits_quantized: QuantizedArtifact) -> None:
    with pytest.raises(PreconditionError, match=r"blocks\.1"):
        InsertQDQ(digits_quantized.model, U8)(build_float_graph(_network(depth=1)))


@torch.no_grad()
def test_hoist_quantize_moves_bytes_and_changes_no_number(
    quantized_graph: ir.Model, digits_quantized: QuantizedArtifact
) -> None:
    InsertQDQ(digits_quantized.model, U8)(quantized_graph)
    images = torch.randn(3, 1, 32, 32)
    before, kinds = _run(quantized_graph, images, optimize=False), _kinds(quantized_graph)
    HoistQuantize()(quantized_graph)
    RemoveDead()(quantized_graph)
    after = _kinds(quantized_graph)
    assert np.array_equal(_run(quantized_graph, images, optimize=False), before)
    assert after["Transpose"] == kinds["Transpose"]
    # The last block's queries use the bytes that its keys and values do.
    assert after["QuantizeLinear"] == kinds["QuantizeLinear"] - 1
    assert not HoistQuantize()(quantized_graph).modified


def test_hoist_quantize_notices_when_it_has_not_worked(
    quantized_graph: ir.Model, digits_quantized: QuantizedArtifact
) -> None:
    InsertQDQ(digits_quantized.model, U8)(quantized_graph)
    with pytest.raises(PostconditionError):
        HoistQuantize().ensures(quantized_graph)


def test_remove_dead() -> None:
    graph = build_float_graph(_network())
    unused = ir.node("Relu", [graph.graph.inputs[0]], name="unused")
    graph.graph.append(unused)
    tensor = ir.tensor(np.zeros(3, np.float32), name="lonely")
    graph.graph.register_initializer(ir.Value(name="lonely", const_value=tensor))
    assert RemoveDead()(graph).modified
    assert "lonely" not in graph.graph.initializers
    assert "unused" not in {node.name for node in graph.graph}
    assert not RemoveDead()(graph).modified


@torch.no_grad()
def test_half_precision_keeps_norms_and_interface(
    quantized_graph: ir.Model, digits_quantized: QuantizedArtifact
) -> None:
    InsertQDQ(digits_quantized.model, S8)(quantized_graph)
    images = torch.randn(4, 1, 32, 32)
    expected = _run(quantized_graph, images, optimize=False)
    HalfPrecision()(quantized_graph)
    assert quantized_graph.graph.inputs[0].dtype == quantized_graph.graph.outputs[0].dtype == ir.DataType.FLOAT
    for name, value in quantized_graph.graph.initializers.items():
        exact = ("norm" in name and name.endswith("weight")) or name.endswith(".scale.float32")
        assert (value.dtype == ir.DataType.FLOAT) == exact, name
    for node in quantized_graph.graph:
        if node.op_type == "QuantizeLinear" and ("norm" in str(node.name) or "images" in str(node.name)):
            source = node.inputs[0].producer()
            assert source is None or source.op_type == "RMSNormalization", "a cast would turn integers"
    actual = _run(quantized_graph, images, optimize=False)
    assert sqnr_db(float(np.square(expected).sum()), float(np.square(actual - expected).sum())) > 30


def test_half_precision_refuses_what_does_not_fit() -> None:
    model = _network()
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    with pytest.raises(PostconditionError, match=r"head\.weight does not fit"):
        HalfPrecision()(build_float_graph(model))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 8])
@torch.no_grad()
def test_micro_batches_change_no_number(
    quantized_graph: ir.Model, digits_quantized: QuantizedArtifact, size: int
) -> None:
    InsertQDQ(digits_quantized.model, U8)(quantized_graph)
    images = [torch.randn(batch, 1, 32, 32) for batch in (1, 2, 3, 7, 8, 9)]
    expected = [_run(quantized_graph, x) for x in images]
    MicroBatch(size)(quantized_graph)
    for x, logits in zip(images, expected, strict=True):
        np.testing.assert_allclose(_run(quantized_graph, x), logits, atol=0.1)
        single = np.concatenate([_run(quantized_graph, one) for one in x.split(size)])
        assert np.array_equal(_run(quantized_graph, x), single)
    with pytest.raises(PreconditionError):
        MicroBatch(size)(quantized_graph)


@pytest.mark.parametrize(
    ("config", "images"),
    [
        (IllamaConfig(192, 12, 3), 4),
        (IllamaConfig(768, 12, 12), 1),
        (IllamaConfig(1024, 24, 16), 1),
        (IllamaConfig(192, 12, 3, image_size=(32, 32), patch_size=4), 12),
    ],
    ids=["T", "B", "L", "T-32px"],
)
def test_micro_batch_follows_the_cache(config: IllamaConfig, images: int) -> None:
    assert micro_batch(config) == images


def test_files_pass_the_checker_and_say_where_they_come_from(
    digits_export: ExportResult, digits_quantized: QuantizedArtifact
) -> None:
    assert digits_export.float_model is not None
    for path in (digits_export.model, digits_export.float_model):
        onnx.checker.check_model(str(path), full_check=True)
        about = {p.key: p.value for p in onnx.load(path).metadata_props}
        assert about[PREFIX + "manifest_sha256"] == digits_quantized.manifest_sha256
    record = json.loads((digits_export.directory / "export.json").read_text())
    assert sum(record["proof"]["kernels"].values()) == 16


def test_every_quantized_gemm_runs_on_integers(digits_export: ExportResult) -> None:
    assert digits_export.proof.holds
    assert sum(digits_export.proof.kernels.values()) == 16
    assert digits_export.proof.fed_by_dequantize == ()
    assert len(digits_export.proof.float_gemms) == 4  # the two products of attention


def test_proof_fails_loudly(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    """Float biases keep Gemms out of the integer kernels, as a careless exporter would find."""
    model = build_float_graph(digits_quantized.model)
    InsertQDQ(digits_quantized.model, ActivationSpelling(unsigned=True, integer_bias=False))(model)
    ir.save(model, tmp_path / "careless.onnx")
    with pytest.raises(ExportError, match="Not every quantized GEMM"):
        prove_onnxruntime(tmp_path / "careless.onnx", digits_quantized.formats)


@pytest.mark.parametrize("batch", [1, 2, 32])
@torch.no_grad()
def test_int8_file_is_the_torch_network(
    digits_quantized: QuantizedArtifact, digits_export: ExportResult, batch: int
) -> None:
    images = torch.randn(batch, 1, 32, 32)
    expected = digits_quantized.model(images).numpy()
    actual = _run(digits_export.model, images)
    assert sqnr_db(float(np.square(expected).sum()), float(np.square(actual - expected).sum())) > 35


@torch.no_grad()
def test_float_file_is_the_checkpoint(digits_export: ExportResult) -> None:
    assert digits_export.float_model is not None
    images = torch.randn(3, 1, 32, 32)
    expected = read_checkpoint("digits").build()(images).numpy()
    np.testing.assert_allclose(_run(digits_export.float_model, images), expected, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_quantized_attention_products(tmp_path: Path) -> None:
    quantize(calib_images=64, attention_products=True, out=tmp_path / "q")
    artifact = load_quantized(tmp_path / "q")
    result = export(tmp_path / "q", float=False, out=tmp_path / "onnx")
    assert sum(result.proof.kernels.values()) == 20
    assert result.proof.float_gemms == ()
    images = torch.randn(3, 1, 32, 32)
    expected = artifact.model(images).numpy()
    actual = _run(result.model, images)
    assert sqnr_db(float(np.square(expected).sum()), float(np.square(actual - expected).sum())) > 30


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> QuantizedArtifact:
    """W8A8 with products of attention and both online rotations."""
    rewrites = (*Recipe().rewrites, "rotate_qk_online", "rotate_swiglu_online")
    recipe = Recipe(rewrites=rewrites, attention_products=True, calib_images=64)
    return quantize(recipe=recipe, out=tmp_path_factory.mktemp("rotated") / "q")


@pytest.mark.slow
def test_online_rotations_stay_float_in_front_of_integers(rotated: QuantizedArtifact, tmp_path: Path) -> None:
    result = export(rotated.path, float=False, verify=True, out=tmp_path / "onnx")
    assert result.proof is not None
    assert sum(result.proof.kernels.values()) == 20
    assert sorted(result.proof.float_gemms) == sorted(online_rotations(rotated.model))
    assert result.proof.fed_by_dequantize == ()
    assert result.parity is not None
    assert result.parity.departs is None
    record = json.loads((result.directory / "export.json").read_text())
    assert record["online_rotations"] == dict(result.rotations) == online_rotations(rotated.model)
    assert len(result.rotations) == 6


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_online_rotations_on_other_targets(digits_quantized: QuantizedArtifact, tmp_path: Path, target: str) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    rewrites = (*digits_quantized.recipe.rewrites, "rotate_qk_online", "rotate_swiglu_online")
    quantize(recipe=Recipe(rewrites=rewrites, calib_images=64), out=tmp_path / "q")
    result = export(tmp_path / "q", target=target, float=False, verify=True, onnx_only=True, out=tmp_path / "out")
    assert result.parity is not None
    assert len(result.parity.layers) == 20
    assert result.parity.departs is None
    if result.proof is not None:
        assert sum(result.proof.kernels.values()) == 16
        assert set(online_rotations(load_quantized(tmp_path / "q").model)) <= set(result.proof.float_gemms)


@pytest.mark.slow
def test_excluded_sites_stay_float(tmp_path: Path) -> None:
    quantize(calib_images=64, exclude=["head", "*.fc2"], out=tmp_path / "q")
    proof = export(tmp_path / "q", float=False, out=tmp_path / "onnx").proof
    assert sum(proof.kernels.values()) == 13
    assert len(proof.float_gemms) == 4 + 3


def test_same_input_same_bytes(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    one, two = (export(digits_quantized.path, float=False, out=tmp_path / name).model for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_every_weight_has_a_zero_point_of_its_own(digits_export: ExportResult) -> None:
    """Where U8×S8 would saturate, ONNX Runtime rewrites weights and zero points, and fails on one that two share."""
    read = [
        node.inputs[2].name
        for graph in ir.load(digits_export.model).graphs()
        for node in graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()
    ]
    assert len(read) > 16
    assert len(read) == len(set(read))


def test_sums_do_not_saturate(digits_quantized: QuantizedArtifact, digits_export: ExportResult) -> None:
    """The loudest pixels there are: pairs of products fill 16 bits, on whatever processor this is."""
    images = torch.full((2, 1, 32, 32), 2.3)
    expected = digits_quantized.model(images).detach().numpy()
    actual = _run(digits_export.model, images)
    assert sqnr_db(float(np.square(expected).sum()), float(np.square(actual - expected).sum())) > 30
