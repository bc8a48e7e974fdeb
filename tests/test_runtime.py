"""Every kind of artefact opens, says what it is, and gives the same logits as the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from illama_deploy import ArtifactError, UsageError
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.runtime import BatchLimits, open_artifact
from illama_deploy.steps.evaluate import evaluate
from illama_deploy.steps.export import ExportResult

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


def test_evaluation_keeps_to_the_batches_that_an_artefact_takes(monkeypatch: pytest.MonkeyPatch) -> None:
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
