"""Engines beside their sidecars: what is not as recorded is refused, and what cannot run here is not measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from illama_deploy import ArtifactError, RuntimeUnavailableError, UsageError
from illama_deploy.environment import cuda_problem
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.steps.export import ExportResult, export
from illama_deploy.targets.open import open_artifact
from illama_deploy.targets.tensorrt import runtime
from illama_deploy.targets.tensorrt.package import check_version
from illama_deploy.targets.tensorrt.sidecar import check_capability, read_sidecar, sidecar_path, write_sidecar

from ..conftest import Cli

pytest.importorskip("tensorrt_rtx")

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

COMMANDS = {
    "evaluate": ("evaluate", "{engine}"),
    "bench": ("bench", "digits", "{engine}", "--rounds", "10"),
    "check": ("check", "{engine}", "--baseline", "digits", "--rounds", "10", "--limit", "64", "--out", "{out}"),
}


def command(name: str, engine: Path) -> list[str]:
    return [word.format(engine=engine, out=engine.parent / "report") for word in COMMANDS[name]]


@pytest.fixture
def engine(digits_engines: ExportResult, tmp_path: Path) -> Path:
    """A copy of the export, to be spoiled."""
    shutil.copytree(digits_engines.directory, tmp_path / "trt")
    return tmp_path / "trt" / "model.engine"


def doctor(path: Path, /, **changes: Any) -> None:
    """Replace entries of an engine's sidecar, and seal it again as its writer would."""
    record = json.loads(sidecar_path(path).read_text())
    write_sidecar(path, {key: value for key, value in {**record, **changes}.items() if value is not None})


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def edit_by_hand(engine: Path) -> None:
    edit(sidecar_path(engine), lambda text: text.replace(b'"max": 32', b'"max": 64'))


DAMAGES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "sidecar-missing": (lambda e: sidecar_path(e).unlink(), ("no sidecar", "model.engine.json")),
    "sidecar-no-json": (lambda e: sidecar_path(e).write_text("{"), ("no JSON", "model.engine.json")),
    "sidecar-a-list": (lambda e: sidecar_path(e).write_text("[]"), ("schema None", "model.engine.json")),
    "sidecar-of-another-schema": (lambda e: doctor(e, schema="illama-deploy/engine/1"), ("engine/1", "engine/3")),
    "sidecar-edited": (edit_by_hand, ("edited", "model.engine.json")),
    "sidecar-without-profile": (lambda e: doctor(e, profile=None), ("`profile`", "model.engine.json")),
    "sidecar-of-another-input": (
        lambda e: doctor(e, input={"name": "images", "shape": [3, 8, 8]}),
        ("its preprocessing makes images",),
    ),
    "engine-changed": (
        lambda e: edit(e, lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("not the one that its sidecar describes", "sha256", "model.engine"),
    ),
    "engine-cut-short": (lambda e: edit(e, lambda data: data[:1000]), ("cut short: 1000 of", "model.engine")),
    "engine-empty": (lambda e: e.write_bytes(b""), ("cut short: 0 of",)),
    "engine-missing": (lambda e: e.unlink(), ("no such artifact", "model.engine")),
    "engine-of-the-other": (
        lambda e: shutil.copy(e.with_name("model.float.engine"), e),
        ("not the one that its sidecar describes",),
    ),
    "onnx-edited": (
        lambda e: edit(e.with_name("model.onnx"), lambda data: data + b"\n"),
        ("model.onnx was edited after model.engine",),
    ),
    "another-version": (lambda e: doctor(e, version="1.6.0.5"), ("tensorrt_rtx 1.6.0.5", "is installed", "export Q")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_refused(cli: Cli, engine: Path, damage: str, name: str) -> None:
    spoil, says = DAMAGES[damage]
    spoil(engine)
    before = sorted(engine.parent.iterdir())
    result = cli(*command(name, engine))
    assert result.code == 2
    for text in (*says, "error: "):
        assert text in result.err
    assert sorted(engine.parent.iterdir()) == before


def test_installed_version_is_said_too(cli: Cli, engine: Path) -> None:
    import tensorrt_rtx

    doctor(engine, version="1.6.0.5")
    assert f"{tensorrt_rtx.__version__} is installed" in cli("evaluate", engine).err


@without_gpu
def test_onnx_need_not_lie_beside_the_engine(cli: Cli, engine: Path) -> None:
    engine.with_name("model.onnx").unlink()
    assert "no CUDA device" in cli("evaluate", engine).err


@pytest.mark.parametrize("name", ["bench", "check"])
@pytest.mark.parametrize(
    ("smallest", "batch", "rebuild"), [(1, 33, "--max-batch 33"), (4, 3, "--min-batch 3")], ids=["above", "below"]
)
def test_batch_outside_the_profile(cli: Cli, engine: Path, name: str, smallest: int, batch: int, rebuild: str) -> None:
    doctor(engine, profile={"input": "images", "min": smallest, "opt": 8, "max": 32})
    result = cli(*command(name, engine), "--batch", batch)
    assert result.code == 2
    assert f"A batch of {batch} is outside the engine's profile, {smallest} to 32 images." in result.err
    assert result.err.count(rebuild) == 1
    assert "--max-batch 32 --max-batch" not in result.err


@without_gpu
def test_evaluate_without_a_gpu(cli: Cli, engine: Path, tmp_path: Path) -> None:
    result = cli("evaluate", engine, "--json", tmp_path / "figures.json")
    assert result.code == 2
    assert "no CUDA device (Found no NVIDIA driver" in result.err
    assert not (tmp_path / "figures.json").exists()


@without_gpu
def test_bench_without_a_gpu(cli: Cli, engine: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = cli("bench", "digits", engine, "--rounds", 10, "--batch", 1, "--batch", 2, "--json", figures)
    assert result.code == 3
    assert "not measured: An engine runs on a GPU: no CUDA device" in result.out
    first, second = json.loads(figures.read_text())["artifacts"]
    assert [row["batch"] for row in first["latency"]] == [1, 2]
    assert "not_measured" not in first
    assert second["latency"] == []
    assert "no CUDA device" in second["not_measured"]
    assert second["info"]["format"] == "W8A8"


@without_gpu
def test_bench_gives_no_ratio_to_what_was_not_measured(cli: Cli, engine: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    assert cli("bench", engine, "digits", "--rounds", 10, "--json", figures).code == 3
    [latency] = json.loads(figures.read_text())["artifacts"][1]["latency"]
    assert latency["p50_ms"] > 0
    assert latency["ratio"] is latency["ratio_low"] is latency["ratio_high"] is None
    assert cli("bench", engine, "--rounds", 10).code == 3


@pytest.mark.slow
@without_gpu
@pytest.mark.parametrize(("options", "code"), [((), 3), (("--strict",), 1)], ids=["lenient", "strict"])
def test_check_without_a_gpu(
    cli: Cli, engine: Path, digits_quantized: QuantizedArtifact, options: tuple[str, ...], code: int
) -> None:
    # Limits that what can be measured meets, so that the engine alone decides.
    limits = ("--max-drop", "50", "--max-latency-ratio", "50")
    result = cli(*command("check", engine), digits_quantized.path, *limits, *options)
    assert result.code == code
    report = json.loads((engine.parent / "report" / "report.json").read_text())
    assert (report["schema"], report["verdict"]) == ("illama-deploy/report/2", "inconclusive")
    _, missing, measured = report["artifacts"]
    assert (missing["accuracy"], missing["comparison"], missing["latency"]) == (None, None, [])
    assert "no CUDA device" in missing["not_measured"]
    assert measured["accuracy"]["images"] == 64
    assert measured["latency"] == []  # what simulates is not timed
    verdicts = [(gate["artifact"], gate["name"], gate["verdict"]) for gate in report["gates"]]
    assert verdicts == [
        (str(engine), "accuracy_drop", "inconclusive"),
        (str(engine), "latency_ratio", "inconclusive"),
        (str(engine), "latency_ratio", "inconclusive"),
        (str(digits_quantized.path), "accuracy_drop", "pass"),
    ]
    for gate in report["gates"]:
        assert ("not_measured" in gate) == (gate["value"] is None) == (gate["artifact"] == str(engine))
    assert "not measured: An engine runs on a GPU" in (engine.parent / "report" / "report.md").read_text()


@without_gpu
def test_check_needs_its_baseline(cli: Cli, engine: Path) -> None:
    result = cli("check", "digits", "--baseline", engine, "--out", engine.parent / "report")
    assert result.code == 2
    assert "no CUDA device" in result.err
    assert not (engine.parent / "report").exists()


def test_package_that_is_not_installed(cli: Cli, engine: Path) -> None:
    """An engine of the other package."""
    if runtime.load_package.__globals__["is_installed"]("tensorrt"):
        pytest.skip("tensorrt is installed")
    doctor(engine, flavor="tensorrt", version="11.4.0")
    result = cli("evaluate", engine)
    assert result.code == 2
    assert "package tensorrt (flavor tensorrt) is not installed" in result.err
    assert "illama-deploy[trt]" in result.err
    result = cli(*command("check", engine))
    assert result.code == 3
    assert "is not installed" in result.out


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('__version__ = "8.6.1"', ("tensorrt 8.6.1 is too old", "10.15 to 11.x", ">=10.15,<12")),
        ('__version__ = "12.0.0"', ("tensorrt 12.0.0 is too new", "10.15 to 11.x", "a newer illama-deploy")),
        ('raise ImportError("libnvinfer.so.11: cannot open")', ("cannot be loaded", "libnvinfer.so.11")),
    ],
    ids=["old", "new", "broken"],
)
def test_package_of_another_version(
    cli: Cli,
    digits_quantized: QuantizedArtifact,
    engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    says: tuple[str, ...],
) -> None:
    """A stand-in for the package tells its version; nothing else of it is asked."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    doctor(engine, flavor="tensorrt", version="11.4.0")
    out = tmp_path / "out"
    for arguments in (
        ("evaluate", engine),
        ("export", digits_quantized.path, "--trt", "--flavor", "tensorrt", "--no-float", "--out", out),
    ):
        result = cli(*arguments)
        assert result.code == 2
        for text in says:
            assert text in result.err
    sys.modules.pop("tensorrt", None)
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "model.onnx"]


@pytest.mark.parametrize(
    ("flavor", "version", "good"),
    [
        ("tensorrt", "10.15.1", True),
        ("tensorrt", "11.4.0.5", True),
        ("tensorrt", "10.14.1", False),
        ("rtx", "1.7.1.116", True),
        ("rtx", "1.3.0", False),
        ("rtx", "2.0", False),
        ("rtx", "unknown", False),
    ],
)
def test_versions(flavor: str, version: str, good: bool) -> None:
    if good:
        check_version(flavor, version)
    else:
        with pytest.raises(RuntimeUnavailableError, match=version):
            check_version(flavor, version)


def test_another_gpu(cli: Cli, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which GPU is here is all that is made up, where there is none."""
    monkeypatch.setattr(runtime, "cuda_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 7))
    for name in COMMANDS:
        result = cli(*command(name, engine))
        assert result.code == 2
        assert "built for compute capability 8.6, 8.9, 12.0, and this GPU has 8.7." in result.err
        assert "--max-batch 32 --compute-capability 8.7" in result.err


def test_capability_of_a_doctored_sidecar(engine: Path) -> None:
    check_capability(read_sidecar(engine), "8.9")
    doctor(engine, compute_capabilities=["9.0"], flavor="tensorrt")
    with pytest.raises(ArtifactError, match=r"capability 9\.0, and this GPU has 8\.9"):
        check_capability(read_sidecar(engine), "8.9")


def test_seal_is_over_everything_else(engine: Path) -> None:
    record = json.loads(sidecar_path(engine).read_text())
    for key in set(record) - {"schema"}:
        path = sidecar_path(engine)
        path.write_text(json.dumps({**record, key: "changed"}))
        with pytest.raises(ArtifactError, match="edited"):
            read_sidecar(engine)
    write_sidecar(engine, record)
    assert json.loads(sidecar_path(engine).read_text()) == record
    read_sidecar(engine)


WRONG: dict[str, dict[str, Any]] = {
    "bytes-text": {"engine": {"file": "model.engine", "sha256": "0" * 64, "bytes": "many"}},
    "batch-zero": {"profile": {"min": 0, "max": 4}},
    "batch-fraction": {"profile": {"min": 1, "max": 4.5}},
    "input-number": {"input": 5},
    "input-empty": {"input": {"name": "images", "shape": []}},
    "logits-nothing": {"output": {"name": "logits", "shape": []}},
    "classes-list": {"classes": [10]},
    "class-names-few": {"class_names": ["one"]},
    "class-names-numbers": {"class_names": [1] * 10},
    "flavor-list": {"flavor": []},
    "version-shell": {"version": "1; rm -rf ~"},
    "capability-number": {"compute_capabilities": [8.9]},
    "rebuild-lines": {"rebuild": "illama-deploy\nexport"},
    "layers-list": {"layers": []},
    "layers-without-list": {"layers": {"from": "x"}},
    "layer-without-type": {"layers": {"from": "x", "list": [{"name": "x", "precision": "y"}]}},
    "onnx-elsewhere": {"onnx": {"file": "../other.onnx", "sha256": "0" * 64}},
    "preprocessing-crop": {"preprocessing": {"size": [32, 32], "mean": [0.5], "std": [0.5], "crop": 1e-9}},
    "preprocessing-text": {"preprocessing": {"size": "32", "mean": [0.5], "std": [0.5]}},
    "format-number": {"format": 8},
}


@pytest.mark.parametrize("name", WRONG)
def test_values_of_other_types_are_named(cli: Cli, engine: Path, name: str) -> None:
    """Sealed again, as whoever wrote it would; every command that reads it says what is wrong."""
    doctor(engine, **WRONG[name])
    for command in ("evaluate", "inspect"):
        result = cli(command, engine)
        assert result.code == 2
        assert "The engine's sidecar cannot be used" in result.err


@pytest.mark.slow
@without_gpu
def test_cuda_that_fails(engine: Path, tmp_path: Path) -> None:
    """A driver's library too old for torch, in a process of its own: torch's reason is given, and nothing stands in."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver's library with")
    source = "int cuInit(unsigned f) { return 0; } int cuDriverGetVersion(int *v) { *v = 11040; return 0; }"
    (tmp_path / "driver.c").write_text(source)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    codes = {"evaluate": 2, "bench": 3}
    for name, code in codes.items():
        done = subprocess.run(
            [sys.executable, "-m", "illama_deploy", *command(name, engine)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == code
        assert "CUDA is here and fails (The NVIDIA driver on your system is too old" in done.stdout + done.stderr


@with_gpu
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["launched", "captured"])
def test_engine_gives_the_answers_of_its_onnx(
    digits_quantized: QuantizedArtifact, tmp_path: Path, cuda_graph: bool
) -> None:
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    try:
        result = export(digits_quantized.path, target="tensorrt", compute_capabilities=[capability], out=tmp_path / "t")
    except UsageError as error:
        pytest.skip(str(error))  # TensorRT for RTX does not build for this GPU
    onnx = open_artifact(result.model)
    engine = open_artifact(result.engines[0], cuda_graph=cuda_graph)
    assert engine.preprocessing == onnx.preprocessing
    assert (engine.classes, engine.class_names, engine.data) == (onnx.classes, onnx.class_names, onnx.data)
    images = np.random.default_rng(0).standard_normal((32, 1, 32, 32), dtype=np.float32)
    expected = onnx.run(images)
    for batch in (1, 5, 32, 5, 1):
        logits = engine.run(images[:batch])
        noise = np.square(logits - expected[:batch]).sum() / np.square(expected[:batch]).sum()
        assert logits.shape == (batch, 10)
        assert noise < 1e-3  # 30 dB
    with pytest.raises(UsageError, match="outside the engine's profile"):
        engine.run(np.concatenate([images, images]))
    assert json.loads(sidecar_path(result.engines[0]).read_text())["layers"]["from"] == "engine inspector"


def test_why_there_is_no_cuda() -> None:
    problem = cuda_problem()
    assert (problem is None) == torch.cuda.is_available()
    assert problem is None or problem.startswith(("no CUDA device (", "CUDA is here and fails ("))
