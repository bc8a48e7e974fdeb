"""TensorRT: the files parse and compile without a GPU, and say what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import timm
import torch

from illama_deploy import ExportError, UsageError
from illama_deploy.checkpoint import read_checkpoint, save_checkpoint
from illama_deploy.hashing import sha256_file
from illama_deploy.progress import phases
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.recipe import Recipe
from illama_deploy.rewrites import apply_rewrites
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import FLOAT_REWRITES, ExportResult, export
from illama_deploy.steps.quantize import quantize
from illama_deploy.targets import TARGETS
from illama_deploy.targets.tensorrt import engine
from illama_deploy.targets.tensorrt.engine import (
    Profile,
    build_engine,
    choose_flavor,
    load_timing_cache,
    make_monitor,
    save_timing_cache,
)
from illama_deploy.targets.tensorrt.layer_info import inspected_layers
from illama_deploy.targets.tensorrt.package import error_log
from illama_deploy.targets.tensorrt.sidecar import sidecar_path

from ..conftest import Cli

pytestmark = pytest.mark.slow

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
    assert (about["classes"], about["class_names"], about["data"]) == (10, list("0123456789"), "digits")
    assert about["input"] == {"name": "images", "shape": [1, 32, 32]}
    assert about["preprocessing"] == digits_quantized.preprocessing.to_dict()


def test_file_is_spelled_for_tensorrt(digits_quantized: QuantizedArtifact) -> None:
    graph = TARGETS["tensorrt"].built(digits_quantized.model).graph
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
    ir.save(TARGETS["tensorrt"].built(model), tmp_path / "t.onnx")
    options = {"flavor": "rtx", "capabilities": ("8.9",), "about": {}, "rebuild": ""}
    sidecar = build_engine(tmp_path / "t.onnx", tmp_path / "t.engine", profile=Profile(), **options)  # type: ignore[arg-type]
    assert json.loads(sidecar.read_text())["engine"]["bytes"] > 11_000_000


def test_online_rotations_compile(tmp_path: Path) -> None:
    rewrites = (*Recipe().rewrites, "rotate_qk_online", "rotate_swiglu_online")
    quantize(recipe=Recipe(rewrites=rewrites, calib_images=32), out=tmp_path / "q")
    (made,) = export(tmp_path / "q", target="tensorrt", flavor="rtx", float=False, compute_capabilities=["8.9"],
                     out=tmp_path / "trt").engines  # fmt: skip
    layers = json.loads(sidecar_path(made).read_text())["layers"]["list"]
    precisions = {row["name"]: row["precision"] for row in layers if row["type"] == "MATRIX_MULTIPLY"}
    assert sum(precision == "float16" for precision in precisions.values()) == 4 + 6  # products of attention, rotations
    assert sum(precision == "int8" for precision in precisions.values()) == 16


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
        (["--trt", "--builder-optimization-level", "6"], "level 6"),
        (["--trt", "--min-batch", "9", "--opt-batch", "2"], "does not ascend"),
        (["--trt", "--onnx"], "at once"),
        ([], "No target"),
    ],
    ids=["capability", "flavor", "level", "profile", "two-targets", "no-target"],
)
def test_wrong_options(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path, options: list[str], says: str
) -> None:
    result = cli("export", digits_quantized.path, "--no-float", "--out", tmp_path / "out", *options)
    assert result.code == 2
    assert says in result.err
    assert "  next:  " in result.err
    assert list(tmp_path.iterdir()) == []


def test_sidecar_lists_layers_and_precision(digits_engines: ExportResult, digits_quantized: QuantizedArtifact) -> None:
    def gemms(path: Path) -> dict[str, str]:
        layers = json.loads(sidecar_path(path).read_text())["layers"]
        assert layers["from"] == "network definition" or torch.cuda.is_available()
        assert sum(layers["counts"].values()) == len(layers["list"])
        return {row["name"]: row["precision"] for row in layers["list"] if row["type"] == "MATRIX_MULTIPLY"}

    quantized, half = map(gemms, digits_engines.engines)
    products = {name for name in quantized if name.endswith(("attn.qk", "attn.pv"))}
    assert {quantized[name] for name in products} == {"float16"}
    assert {quantized[name] for name in set(quantized) - products} == {"int8"}
    assert set(half.values()) == {"float16"}
    assert set(half) == set(quantized)
    # Queries, keys and values are one site in the recipe and three GEMMs in the graph.
    sites = {name.split(".qkv")[0] + (".qkv" if ".qkv" in name else "") for name in set(quantized) - products}
    assert sites == set(digits_quantized.formats)


def test_inspector_lists_layers_and_precision() -> None:
    """The inspector's JSON as its documentation shows it: detailed, and names only."""
    half, int8 = ({"Name": "x", "Format/Datatype": text} for text in ("Row major linear FP16", "Row major Int8"))
    detailed = {"Name": "fc1 + silu", "LayerType": "gemm", "Inputs": [int8, int8], "Outputs": [half]}
    assert inspected_layers(json.dumps({"Layers": [detailed, "fc2"]})) == [
        {"name": "fc1 + silu", "type": "gemm", "precision": "Row major Int8 → Row major linear FP16"},
        {"name": "fc2", "type": "unknown", "precision": "unknown"},
    ]


def test_optimization_level_is_in_the_rebuild_command(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path
) -> None:
    options = ("--trt", "--flavor", "rtx", "--no-float", "--builder-optimization-level", 0, "--out", tmp_path / "trt")
    assert cli("export", digits_quantized.path, *options).code == 0
    record = json.loads((tmp_path / "trt" / "model.engine.json").read_text())
    assert record["rebuild"].endswith("--builder-optimization-level 0")


def test_unsupported_opset(digits_engines: ExportResult, tmp_path: Path) -> None:
    model = onnx.load(digits_engines.model)
    model.opset_import[0].version = 6
    onnx.save(model, tmp_path / "old.onnx")
    options = {"flavor": "rtx", "capabilities": ("8.9",), "about": {}, "rebuild": ""}
    with pytest.raises(ExportError, match=r"refuses the file \(opset 6\): .*opset 7"):
        build_engine(tmp_path / "old.onnx", tmp_path / "x.engine", profile=Profile(), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x.engine").exists()


#: The command line, interrupted as soon as the builder works. In a process of its own, as users run it: after many
#: other builds in one process an interrupted one was seen to crash inside TensorRT for RTX 1.7.1.
INTERRUPTED = """
import os, signal, sys, threading, time
from illama_deploy.cli import main
from illama_deploy.targets.tensorrt.engine import BUILD_THREAD

def interrupt():
    while not any(thread.name.startswith(BUILD_THREAD) for thread in threading.enumerate()):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

# A shell starts background jobs with Ctrl-C ignored, and this process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
main(sys.argv[1:])
"""


def test_interrupted_build_leaves_nothing(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    options = ["export", str(digits_quantized.path), "--trt", "--flavor", "rtx", "--out", str(tmp_path / "trt")]
    result = subprocess.run([sys.executable, "-c", INTERRUPTED, *options], capture_output=True, text=True, check=False)
    message = result.stderr.splitlines()[0]
    assert (result.returncode, message) == (2, "error: Interrupted; nothing half-written was kept.")
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_build_stops_at_its_next_step(digits_engines: ExportResult) -> None:
    """What an interrupt sets in motion: the builder gives up, and says so."""
    import tensorrt_rtx as trt

    log, complaints = error_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse_from_file(str(digits_engines.model))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 1, 32, 32), (8, 1, 32, 32), (32, 1, 32, 32))
    config.add_optimization_profile(profile)
    with phases("Building") as shown:
        monitor = make_monitor(trt, shown)
        config.progress_monitor = monitor
        monitor.cancelled = True
        assert builder.build_serialized_network(network, config) is None
    assert "BuildCanceled" in complaints[0]


def _refusing(complaints: list[str]) -> None:
    # What tensorrt_rtx 1.7 logged under a limit on its address space, before it gave None.
    complaints.append(
        "Error Code 1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] std::bad_alloc In compile"
    )


def _raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "fails",
    [
        _refusing,
        lambda _: _raising(MemoryError("std::bad_alloc")),
        lambda _: _raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
    ],
    ids=["refused", "host", "device"],
)
def test_out_of_memory_while_building(
    cli: Cli,
    digits_quantized: QuantizedArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[list[str]], None],
) -> None:
    """A real shortage makes the builder hang or abort as often as fail, so the failure is put in its place."""
    compile_ = engine._compile
    monkeypatch.setattr(engine, "_compile", lambda _, monitor, said: compile_(lambda: fails(said), monitor, said))
    result = cli("export", digits_quantized.path, "--trt", "--flavor", "rtx", "--out", tmp_path / "trt")
    assert result.code == 2
    assert result.err.startswith("error: Out of memory: tensorrt_rtx")
    assert "for batches up to 32" in result.err
    assert "--max-batch" in result.err
    assert list(tmp_path.iterdir()) == []


def test_builder_that_refuses_for_another_reason(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_compile", lambda *_: None)
    result = cli("export", digits_quantized.path, "--trt", "--flavor", "rtx", "--out", tmp_path / "trt")
    assert result.code == 2
    assert "cannot build the engine: it gives no reason" in result.err
    assert list(tmp_path.iterdir()) == []


def test_build_shows_its_phases(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    arguments = ["export", digits_quantized.path, "--trt", "--flavor", "rtx", "--no-float", "--out", tmp_path / "trt"]
    with subprocess.Popen([sys.executable, "-m", "illama_deploy", *arguments], stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"Building model.engine (rtx): Building engine" in shown


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_timing_cache_is_kept_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    """Both packages have the calls; only tensorrt fills the cache."""
    import tensorrt_rtx as trt

    path = tmp_path / "new" / "tensorrt.timing"
    config = trt.Builder(error_log(trt)[0]).create_builder_config()
    load_timing_cache(config, path)
    save_timing_cache(config, path)
    whole = path.read_bytes()
    assert whole
    path.write_bytes(b"garbage")
    load_timing_cache(config, path)
    save_timing_cache(config, path)
    assert path.read_bytes() == whole
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_flavors() -> None:
    with pytest.raises(UsageError):
        choose_flavor("none")
    assert choose_flavor("rtx") == "rtx"
