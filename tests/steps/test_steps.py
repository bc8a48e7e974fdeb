"""The steps on the embedded default and, where it stands beside the checkout, on the official checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import illama_deploy
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.runtime import Runtime
from illama_deploy.steps.export import ExportResult
from illama_deploy.targets.open import open_artifact


@pytest.mark.slow
def test_embedded_default_is_good_and_small() -> None:
    figures = illama_deploy.evaluate("digits").figures
    assert figures["images"] == 898
    assert figures["top1"] >= 97.0
    asset = Path(illama_deploy.__file__).parent / "assets" / "digits.safetensors"
    assert asset.stat().st_size < 1_500_000


@pytest.mark.slow
def test_quantize_is_deterministic(tmp_path: Path) -> None:
    for name in "ab":
        illama_deploy.quantize(calib_images=64, out=tmp_path / name)
    for file in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.slow
def test_ranges_do_not_depend_on_the_calibration_batch(tmp_path: Path) -> None:
    manifests = [
        illama_deploy.quantize(calib_images=75, calib_batch=batch, out=tmp_path / str(batch)).manifest
        for batch in (1, 7, 64)
    ]
    assert manifests[0]["sites"] == manifests[1]["sites"] == manifests[2]["sites"]
    weights = {(tmp_path / str(batch) / "model.safetensors").read_bytes() for batch in (1, 7, 64)}
    assert len(weights) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "percentile:99.9", "mse", "entropy"])
def test_every_range_method_keeps_digits(method: str, tmp_path: Path) -> None:
    artifact = illama_deploy.quantize(calib_images=64, range=method, out=tmp_path / "q")
    assert artifact.manifest["recipe"]["range"] == method
    assert illama_deploy.evaluate(artifact.path, limit=300, reference="digits").figures["agreement"] >= 98


def test_manifest_tells_how_it_was_made(digits_quantized: QuantizedArtifact) -> None:
    manifest = digits_quantized.manifest
    assert manifest["recipe"]["seed"] == 0
    assert (manifest["data"]["kind"], manifest["data"]["images"]) == ("digits", 899)
    assert manifest["data"]["split"] == "train"
    assert len(manifest["data"]["indices"]) == 128
    assert manifest["source"]["name"] == "digits.safetensors"
    assert len(manifest["source"]["sha256"]) == 64
    assert {"illama-deploy", "torch", "timm"} <= set(manifest["versions"])
    assert manifest["logit_sqnr_db"] > 30
    assert set(manifest["sites"]) == set(digits_quantized.formats)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["W3A3", "W4A4"])
def test_low_bits_take_the_shipped_recipe(name: str, tmp_path: Path) -> None:
    """And options still override it: an excluded site may have an override in the recipe."""
    artifact = illama_deploy.quantize("digits", format=name, calib_images=32, exclude=["head"], out=tmp_path / "q")
    formats = artifact.formats
    assert formats["patch_embed.proj"].name == formats["blocks.0.attn.pv"].name == "W8A8"
    assert formats["blocks.1.mlp.fc2"].name == name
    assert "head" not in formats
    assert artifact.recipe.calib_images == 32
    assert illama_deploy.evaluate(artifact.path, limit=300, reference="digits").figures["agreement"] >= 90


def test_seed_draws_other_images(tmp_path: Path) -> None:
    one, two = (
        illama_deploy.quantize(calib_images=20, seed=seed, out=tmp_path / str(seed)).manifest for seed in (0, 1)
    )
    assert one["data"]["indices"] != two["data"]["indices"]


def test_evaluate_writes_what_it_says(digits_export: ExportResult, tmp_path: Path) -> None:
    result = illama_deploy.evaluate(
        digits_export.model,
        reference="digits",
        limit=100,
        save_logits=tmp_path / "logits.npz",
        json=tmp_path / "figures.json",
    )
    written = json.loads((tmp_path / "figures.json").read_text())
    assert {key: written[key] for key in result.figures} == result.figures
    assert set(result.figures) == {"top1", "top5", "ece", "nll", "brier", "images", "agreement", "logit_sqnr_db"}
    saved = np.load(tmp_path / "logits.npz")
    assert saved["logits"].shape == (100, 10)
    assert 100 * (saved["logits"].argmax(1) == saved["labels"]).mean() == pytest.approx(result.figures["top1"])


def test_bench_compares_with_the_first(digits_export: ExportResult, tmp_path: Path) -> None:
    assert digits_export.float_model is not None
    result = illama_deploy.bench(
        [digits_export.float_model, digits_export.model], batch=[1, 4], rounds=20, json=tmp_path / "bench.json"
    )
    first, second = json.loads((tmp_path / "bench.json").read_text())["artifacts"]
    assert [latency["batch"] for latency in second["latency"]] == [1, 4]
    assert first["latency"][0]["ratio"] == 1.0
    assert 0 < second["latency"][0]["ratio_low"] <= second["latency"][0]["ratio"] <= second["latency"][0]["ratio_high"]
    assert result.environment["cores"]


class Slowed(Runtime):
    """An artifact that takes `factor` times as long."""

    def __init__(self, inner: Runtime, factor: float) -> None:
        self.__dict__.update(vars(inner))
        self.inner, self.factor = inner, factor

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        logits = self.inner.run(images_BCHW)
        end = start + self.factor * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return logits


@pytest.mark.slow
def test_check_fails_what_is_slower(digits_export: ExportResult, tmp_path: Path) -> None:
    assert digits_export.float_model is not None
    slowed = Slowed(open_artifact(digits_export.float_model, threads=1), 5)  # beyond doubt on any machine
    report = illama_deploy.check(
        [slowed], baseline=digits_export.float_model, max_latency_ratio=1.1, seconds=1, out=tmp_path / "report"
    )
    assert report.exit_code() == 1
    assert {gate.verdict for gate in report.gates if gate.name == "latency_ratio"} == {"fail"}
    assert {gate.verdict for gate in report.gates if gate.name == "accuracy_drop"} == {"pass"}


@pytest.mark.slow
def test_check_passes_what_is_the_same(digits_export: ExportResult, tmp_path: Path) -> None:
    assert digits_export.float_model is not None
    report = illama_deploy.check(
        [digits_export.float_model],
        baseline=digits_export.float_model,
        max_latency_ratio=1.1,
        seconds=1,
        out=tmp_path / "report",
    )
    assert report.exit_code() == 0
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written == report.to_dict()
    assert written["verdict"] == "pass"
    assert written["schema"] == "illama-deploy/report/2"
    assert (tmp_path / "report" / "report.md").read_text().startswith("# ✅ PASS")


@pytest.mark.slow
def test_check_fails_what_is_less_accurate(digits_export: ExportResult, tmp_path: Path) -> None:
    assert digits_export.float_model is not None
    worse = open_artifact(digits_export.model, threads=1)
    broken = Slowed(worse, 1.0)
    broken.run = lambda images: np.roll(worse.run(images), (np.arange(10) < 2).sum(), 1)  # type: ignore[method-assign]
    report = illama_deploy.check([broken], baseline=digits_export.float_model, rounds=10, out=tmp_path / "report")
    assert next(gate.verdict for gate in report.gates if gate.name == "accuracy_drop") == "fail"


@pytest.mark.slow
def test_demo_ends_in_a_report(tmp_path: Path) -> None:
    report, root = illama_deploy.demo(tmp_path / "demo", seconds=0.5)
    assert root == tmp_path / "demo"
    assert (root / "report" / "report.md").is_file()
    assert report.gates[0].verdict == "pass"


# The official checkpoint, on real images


@pytest.mark.slow
def test_int8_keeps_the_official_checkpoint(
    cifar_checkpoint: Path, cifar_data: str, cifar_quantized: QuantizedArtifact, cifar_export: ExportResult
) -> None:
    """The full figures are in benchmarks/; here 1,000 images, with room for their noise."""
    options = {"data": cifar_data, "limit": 1000}
    integer = illama_deploy.evaluate(cifar_export.model, reference=cifar_quantized.path, **options).figures  # type: ignore[arg-type]
    assert integer["agreement"] >= 99.5
    assert integer["logit_sqnr_db"] >= 30
    against_float = illama_deploy.evaluate(cifar_export.model, reference=cifar_export.float_model, **options).figures  # type: ignore[arg-type]
    assert against_float["agreement"] >= 97.5
    assert against_float["logit_sqnr_db"] >= 30


@pytest.mark.slow
def test_int8_file_is_small_and_all_integer(cifar_export: ExportResult) -> None:
    assert cifar_export.float_model is not None
    assert cifar_export.model.stat().st_size <= 0.3 * cifar_export.float_model.stat().st_size
    assert (sum(cifar_export.proof.kernels.values()), cifar_export.proof.fed_by_dequantize) == (86, ())


@pytest.mark.slow
def test_another_input_size_goes_through(cifar_checkpoint: Path, cifar_data: str, tmp_path: Path) -> None:
    artifact = illama_deploy.quantize(
        cifar_checkpoint, data=cifar_data, image_size=(40, 40), calib_images=32, out=tmp_path / "q"
    )
    result = illama_deploy.export(artifact.path, out=tmp_path / "onnx")
    images = np.random.default_rng(0).standard_normal((2, 3, 40, 40), dtype=np.float32)
    with torch.inference_mode():
        expected = artifact.model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(open_artifact(result.model).run(images), expected, atol=0.1)


@pytest.mark.slow
def test_memory_does_not_grow_with_calibration_images(cifar_checkpoint: Path, cifar_data: str, tmp_path: Path) -> None:
    def peak(images: int) -> int:
        code = (
            "import resource, sys, illama_deploy\n"
            "illama_deploy.quantize(sys.argv[1], data=sys.argv[2], calib_images=int(sys.argv[3]), out=sys.argv[4])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = [str(cifar_checkpoint), cifar_data, str(images), str(tmp_path / str(images))]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak(1024) < 1.1 * peak(128)
