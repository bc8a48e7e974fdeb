"""What tests share: the CLI, artifacts made once, and the data that may stand beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings

from illama_deploy.cli import main
from illama_deploy.export.float_graph import build_float_graph  # noqa: F401  (warms the heavy imports once)
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.steps.export import ExportResult, export
from illama_deploy.steps.quantize import quantize

from .bad_input import digits_state, place, quantized, refused  # noqa: F401

# CI must not depend on luck; elsewhere new examples are drawn each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests name is remembered for this run alone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins in a workspace where nothing was made."""
    monkeypatch.setenv("ILLAMA_DEPLOY_WORKSPACE", str(tmp_path / "illama-out"))


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What a test draws at random depends neither on luck nor on the tests before it."""
    torch.manual_seed(0)


class CliResult(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., CliResult]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process: `cli("quantize", "--bits", 8)`."""

    def run(*arguments: object) -> CliResult:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert isinstance(stopped.value.code, int)
        return CliResult(stopped.value.code, captured.out, captured.err)

    return run


def _needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT.parent)} does not stand beside the checkout")
    return path


@pytest.fixture(scope="session")
def cifar_checkpoint() -> Path:
    return _needed(SHARED / "checkpoints" / "illama-tiny-cifar10.pth")


@pytest.fixture(scope="session")
def cifar_golden() -> Path:
    return _needed(SHARED / "checkpoints" / "illama-tiny-cifar10.golden.npz")


@pytest.fixture(scope="session")
def cifar_data() -> str:
    return f"parquet:{_needed(SHARED / 'data' / 'cifar10')}"


@pytest.fixture(scope="session")
def digits_quantized(tmp_path_factory: pytest.TempPathFactory) -> QuantizedArtifact:
    return quantize(calib_images=128, out=tmp_path_factory.mktemp("digits") / "quantized")


@pytest.fixture(scope="session")
def digits_export(digits_quantized: QuantizedArtifact, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export(digits_quantized.path, out=tmp_path_factory.mktemp("digits") / "onnx")


@pytest.fixture(scope="session")
def digits_engines(digits_quantized: QuantizedArtifact, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path_factory.mktemp("digits") / "trt"
    return export(digits_quantized.path, target="tensorrt", flavor="rtx", out=out)


@pytest.fixture(scope="session")
def cifar_quantized(
    cifar_checkpoint: Path, cifar_data: str, tmp_path_factory: pytest.TempPathFactory
) -> QuantizedArtifact:
    return quantize(cifar_checkpoint, bits=8, data=cifar_data, out=tmp_path_factory.mktemp("cifar") / "quantized")


@pytest.fixture(scope="session")
def cifar_export(cifar_quantized: QuantizedArtifact, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export(cifar_quantized.path, out=tmp_path_factory.mktemp("cifar") / "onnx")
