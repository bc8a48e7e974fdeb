"""Every kind of artifact opens, says what it is, and gives the same logits as the others."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch._inductor.config

from illama_deploy import ArtifactError, ExportError, RuntimeUnavailableError, UsageError
from illama_deploy.quant import QuantizedArtifact, load_quantized
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.runtime import BatchLimits, Unavailable
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import ExportResult, export
from illama_deploy.steps.quantize import quantize
from illama_deploy.targets import TARGETS
from illama_deploy.targets.open import open_artifact, open_if_available
from illama_deploy.targets.torch_cpu import torchao
from illama_deploy.targets.torch_cpu.torchao import to_torchao

from ..conftest import Cli

IMAGES = np.random.default_rng(0).standard_normal((4, 1, 32, 32), dtype=np.float32)


def test_embedded_default_and_its_float_export_agree(digits_export: ExportResult) -> None:
    assert digits_export.float_model is not None
    one, other = open_artifact("digits"), open_artifact(digits_export.float_model)
    np.testing.assert_allclose(one.run(IMAGES), other.run(IMAGES), atol=1e-4)
    assert one.preprocessing == other.preprocessing
    assert one.class_names == other.class_names == tuple("0123456789")
    assert one.data == other.data == "digits"
    assert one.info.format == other.info.format == "float32"


def test_quantized_in_torch_and_in_onnxruntime_agree(
    digits_quantized: QuantizedArtifact, digits_export: ExportResult
) -> None:
    simulated, integer = open_artifact(digits_quantized.path), open_artifact(digits_export.directory)
    assert (simulated.run(IMAGES).argmax(1) == integer.run(IMAGES).argmax(1)).all()
    assert simulated.info.format == integer.info.format == "W8A8"
    assert simulated.info.manifest_sha256 == integer.info.manifest_sha256
    assert integer.info.provider == "CPUExecutionProvider"
    assert integer.info.size_bytes == digits_export.model.stat().st_size


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_was_asked_for(digits_export: ExportResult, threads: int) -> None:
    for name in ("digits", digits_export.model):
        runtime = open_artifact(name, threads=threads)
        assert runtime.threads == threads
        assert runtime.run(IMAGES).shape == (4, 10)


def test_folder_with_neither(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="neither"):
        open_artifact(tmp_path)


def test_evaluation_keeps_to_the_batches_that_an_artifact_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default batch shrinks to the largest; the last one, too small, is filled up and the filling left out."""

    def require(size: int) -> None:
        if not 4 <= size <= 16:
            raise UsageError(f"{size} is outside.")

    runtime = open_artifact("digits")
    expected = evaluate(runtime, limit=33).figures
    runtime.batches = BatchLimits(4, 16, require)
    run, sizes = runtime.run, list[int]()

    def counted(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return run(images)

    monkeypatch.setattr(runtime, "run", counted)
    figures = evaluate(runtime, limit=33).figures
    assert sizes == [16, 16, 4]
    assert figures == pytest.approx(expected)
    with pytest.raises(UsageError, match="64 is outside"):
        evaluate(runtime, batch_size=64)


@pytest.mark.slow
def test_openvino_runs_what_was_written_for_it(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    exported = export(digits_quantized.path, target="openvino", float=False, out=tmp_path / "ov")
    simulated = open_artifact(digits_quantized.path)
    for precision in ("auto", "f32"):
        runtime = open_artifact(exported.directory, threads=1, precision=precision)
        assert runtime.info.backend == "openvino"
        exact = simulated.run(IMAGES)
        noise = float(np.square(runtime.run(IMAGES) - exact).sum())
        assert sqnr_db(float(np.square(exact).sum()), noise) > (20 if precision == "auto" else 28)
    assert runtime.info.provider.startswith("CPU, f32")
    assert open_artifact(exported.directory, backend="cpu").info.backend == "onnxruntime"
    first = runtime.run(IMAGES)
    runtime.run(-IMAGES)
    np.testing.assert_array_equal(first, runtime.run(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["W8A8", "W8A8-dynamic", "W4A8", "W4A16"])
def test_torchao_carries_the_same_integers(tmp_path: Path, format_: str) -> None:
    artifact = quantize(format=format_, calib_images=64, out=tmp_path / "q")
    exact = open_artifact(artifact.path).run(IMAGES)
    loaded = load_quantized(artifact.path)
    network = to_torchao(loaded.model)
    with torch.inference_mode():
        converted = network(torch.from_numpy(IMAGES)).numpy()
    noise = float(np.square(converted - exact).sum())
    assert sqnr_db(float(np.square(exact).sum()), noise) > 25


@pytest.mark.slow
def test_torchao_is_a_backend(digits_quantized: QuantizedArtifact) -> None:
    figures = evaluate(digits_quantized.path, reference=digits_quantized.path, backend="torch", limit=64)
    assert figures.artifact["backend"].startswith("torchao")
    assert figures.figures["agreement"] >= 98


@pytest.mark.slow
def test_compiled_batches(digits_quantized: QuantizedArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes are compiled, others filled up or cut; torch's limit of one process is not what counts."""
    monkeypatch.setattr(torchao, "COMPILED_SIZES", 2)
    runtime = open_artifact(digits_quantized.path, backend="torch")
    with torch._dynamo.config.patch(recompile_limit=1):
        whole = runtime.run(IMAGES)
        for batch in (2, 1, 3):
            np.testing.assert_allclose(runtime.run(IMAGES[:batch]), whole[:batch], atol=1e-4)
        twice = runtime.run(np.concatenate([IMAGES, IMAGES[:1]]))
        np.testing.assert_allclose(twice, np.concatenate([whole, whole[:1]]), atol=1e-4)


@pytest.mark.slow
def test_torchao_without_a_compiler(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch("cpp.cxx", (None, str(tmp_path / "none"))):
        result = cli("evaluate", digits_quantized.path, "--target", "torch", "--limit", 8)
    assert result.code == 2
    assert "needs a C++ compiler" in result.err


@pytest.mark.slow
def test_torchao_refuses_what_it_has_no_match_for(tmp_path: Path) -> None:
    artifact = quantize(format="W4A4", calib_images=16, out=tmp_path / "q")
    with pytest.raises(UsageError, match="no match for W4A4"):
        open_artifact(artifact.path, backend="torch")


@pytest.mark.parametrize("options", [{"backend": "vulkan"}, {"precision": "f64"}], ids=["backend", "precision"])
def test_choices_that_are_none(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        open_artifact("digits", **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_files_for_cuda_do_not_fall_back(digits_quantized: QuantizedArtifact, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    exported = export(digits_quantized.path, target="onnx-cuda", float_only=True, out=tmp_path / "cuda")
    with pytest.raises(RuntimeUnavailableError, match="written for CUDA"):
        open_artifact(exported.float_model)  # type: ignore[arg-type]
    waiting = open_if_available(exported.float_model)  # type: ignore[arg-type]
    assert isinstance(waiting, Unavailable)
    assert waiting.info.format == "float16"
    quantized = export(digits_quantized.path, target="onnx-cuda", simulate=True, float=False, out=tmp_path / "q")
    directory = open_if_available(quantized.directory)
    assert isinstance(directory, Unavailable)
    assert directory.info.size_bytes == quantized.model.stat().st_size  # type: ignore[union-attr]
    on_cpu = open_artifact(exported.float_model, backend="cpu")  # type: ignore[arg-type]
    assert on_cpu.info.provider == "CPUExecutionProvider"


def test_openvino_that_is_not_installed(
    cli: Cli, digits_quantized: QuantizedArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported all the same, and said so; running it is refused with what to install."""
    found = find_spec("openvino")
    monkeypatch.setattr("illama_deploy.versions.find_spec", lambda name: None if name == "openvino" else found)
    result = cli("export", digits_quantized.path, "--openvino", "--no-float", "--out", tmp_path / "ov")
    assert result.code == 2
    assert "illama-deploy[openvino]" in result.err
    assert "written to" in result.err
    made = export(digits_quantized.path, target="openvino", float=False, out=tmp_path / "again")
    assert made.model is not None and made.model.is_file()
    assert isinstance(made.unavailable, RuntimeUnavailableError)
    result = cli("evaluate", tmp_path / "ov" / "model.onnx")
    assert result.code == 2
    assert "illama-deploy[openvino]" in result.err


@pytest.mark.slow
def test_inspect_shows_sites_layers_and_parity(
    cli: Cli, digits_quantized: QuantizedArtifact, digits_export: ExportResult, tmp_path: Path
) -> None:
    sites = cli("inspect", digits_quantized.path)
    assert sites.code == 0
    assert "blocks.1.mlp.fc2" in sites.out
    assert "12 sites" in sites.out
    assert "most sensitive: " in sites.out
    for exported in (digits_export.directory, digits_export.model):
        layers = cli("inspect", exported)
        assert "QGemm" in layers.out
        assert "in int8" in layers.out
        assert "time %" in layers.out
    parity = cli("inspect", digits_quantized.path, "--parity")
    assert "20 GEMMs compared" in parity.out
    nothing = cli("inspect", tmp_path)
    assert nothing.code == 2
    assert "no quantized checkpoint" in nothing.err


def test_parity_stops_at_the_first_layer_that_departs(digits_quantized: QuantizedArtifact) -> None:
    """A weight spoilt in the exported graph only is found where it is."""
    target = TARGETS["onnx-cpu"]

    class Spoil(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            value = model.graph.initializers["blocks.1.mlp.fc1.weight.scale"]
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy() * 3, name=value.name)
            return ir.passes.PassResult(model, True)

    spoilt = replace(target, passes=lambda network: (*target.passes(network), Spoil()))
    result = spoilt.parity(digits_quantized.model)
    assert result.departs == "blocks.1.mlp.fc1"
    assert result.layers[-1].name == "blocks.1.mlp.fc1"
    with pytest.raises(ExportError, match=r"departs from torch at blocks\.1\.mlp\.fc1"):
        result.demand()
