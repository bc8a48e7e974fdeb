"""TensorRT: the files parse and compile without a GPU, and say what they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx_ir as ir
import pytest
import timm
import torch

from illama_deploy import ExportError, RuntimeUnavailableError, UsageError
from illama_deploy.checkpoint import read_checkpoint, save_checkpoint
from illama_deploy.export.engine import Profile, build_engine, choose_flavor
from illama_deploy.export.targets import TARGETS
from illama_deploy.hashing import sha256_file
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.rewrites import apply_rewrites
from illama_deploy.runtime import open_artifact
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import FLOAT_REWRITES, export
from illama_deploy.steps.quantize import quantize

from .conftest import Cli

pytest.importorskip("tensorrt_rtx")


def test_literal_line_ends_in_an_engine(cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    result = cli("export", digits_quantized.path, "--trt", "--workspace", tmp_path)
    assert result.code == 0
    made = tmp_path / "trt"
    assert sorted(path.name for path in made.iterdir()) == [
        "export.json",
        "model.engine",
        "model.engine.json",
        "model.float.engine",
        "model.float.engine.json",
        "model.float.onnx",
        "model.onnx",
    ]
    about = json.loads((made / "model.engine.json").read_text())
    assert about["engine"]["sha256"] == sha256_file(made / "model.engine")
    assert about["onnx"]["sha256"] == sha256_file(made / "model.onnx")
    assert about["manifest_sha256"] == digits_quantized.manifest_sha256
    assert about["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert about["profile"] == {"input": "images", "min": 1, "opt": 8, "max": 32}
    assert about["precision"]["gemms"] == "W8A8"
    assert json.loads((made / "model.float.engine.json").read_text())["precision"]["gemms"] == "float16"
    assert "--flavor rtx" in about["rebuild"]


def test_file_is_spelled_for_tensorrt(digits_quantized: QuantizedArtifact) -> None:
    graph = TARGETS["tensorrt"].build(digits_quantized.model).graph
    kinds = Counter(node.op_type for node in graph)
    assert (
        kinds["DequantizeLinear"] == kinds["QuantizeLinear"] + 16 + 1
    )  # weights; the last queries are a slice of their block's bytes
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = node.inputs[2]
            assert zero is not None
            assert zero.const_value is not None
            assert zero.dtype == ir.DataType.INT8
            assert not zero.const_value.numpy().any()
    assert ir.DataType.INT32 not in {value.dtype for value in graph.initializers.values()}


def test_onnx_only_gives_the_torch_answers(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    result = export(digits_quantized.path, target="tensorrt", onnx_only=True, out=tmp_path / "trt")
    assert result.engines == ()
    figures = evaluate(result.model, reference=digits_quantized.path).figures
    assert figures["agreement"] >= 99.5
    assert figures["logit_sqnr_db"] >= 30


def test_published_geometry_compiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("illama_tiny").eval()
    apply_rewrites(model, FLOAT_REWRITES)
    ir.save(TARGETS["tensorrt"].build(model), tmp_path / "t.onnx")
    options = {"flavor": "rtx", "capabilities": ("8.9",), "about": {}, "rebuild": ""}
    sidecar = build_engine(tmp_path / "t.onnx", tmp_path / "t.engine", profile=Profile(), **options)  # type: ignore[arg-type]
    assert json.loads(sidecar.read_text())["engine"]["bytes"] > 11_000_000


def test_weights_beyond_half_precision_are_an_error(tmp_path: Path) -> None:
    checkpoint = read_checkpoint("digits")
    state = {**checkpoint.state, "head.weight": checkpoint.state["head.weight"] * 1e7}
    save_checkpoint(tmp_path / "loud.safetensors", state, checkpoint.config, checkpoint.preprocessing, data="digits")
    quantize(tmp_path / "loud.safetensors", exclude=["head"], calib_images=16, out=tmp_path / "q")
    with pytest.raises(ExportError, match=r"head\.weight does not fit into float16"):
        export(tmp_path / "q", target="tensorrt", onnx_only=True, out=tmp_path / "trt")
    assert not (tmp_path / "trt").exists()


def test_parser_complaints_are_given(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    options = {"flavor": "rtx", "capabilities": ("8.9",), "about": {}, "rebuild": ""}
    with pytest.raises(ExportError, match="refuses the file"):
        build_engine(tmp_path / "bad.onnx", tmp_path / "x.engine", profile=Profile(), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x.engine").exists()


def test_flavor_that_is_not_here_writes_the_onnx_anyway(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path
) -> None:
    result = cli(
        "export", digits_quantized.path, "--trt", "--flavor", "tensorrt", "--no-float", "--out", tmp_path / "trt"
    )
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert result.code == 2
    assert "written to" in result.err
    assert "  next:  " in result.err
    assert sorted(path.name for path in (tmp_path / "trt").iterdir()) == ["export.json", "model.onnx"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--trt", "--compute-capability", "3.0"], "3.0"),
        (["--trt", "--flavor", "vulkan"], "vulkan"),
        (["--trt", "--min-batch", "9", "--opt-batch", "2"], "does not ascend"),
        (["--trt", "--onnx"], "at once"),
        ([], "No target"),
    ],
    ids=["capability", "flavor", "profile", "two-targets", "no-target"],
)
def test_wrong_options(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path, options: list[str], says: str
) -> None:
    result = cli("export", digits_quantized.path, "--no-float", "--out", tmp_path / "out", *options)
    assert result.code == 2
    assert says in result.err
    assert "  next:  " in result.err
    assert list(tmp_path.iterdir()) == []


def test_engines_are_not_run_yet(tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(b"")
    with pytest.raises(RuntimeUnavailableError, match="does not run"):
        open_artifact(tmp_path / "x.engine")


def test_flavors() -> None:
    with pytest.raises(UsageError):
        choose_flavor("none")
    assert choose_flavor("rtx") == "rtx"
