"""ONNX files, ours and others': seals, weights beside them, metadata, floors, and what is refused before a runtime."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from illama_deploy import ArtifactError, RuntimeUnavailableError, onnx_trial
from illama_deploy.export import file as export_file
from illama_deploy.export.record import RECORD, read_record
from illama_deploy.onnx_metadata import EXTERNAL, PREFIX
from illama_deploy.onnx_seal import append_seal, read_seal
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.runtime import onnx_file
from illama_deploy.runtime.onnx_file import read_onnx
from illama_deploy.sealed import write_sealed
from illama_deploy.steps.export import ExportResult, export
from illama_deploy.targets import TARGETS
from illama_deploy.targets.open import open_artifact
from illama_deploy.versions import is_older

from ..conftest import Cli

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).standard_normal((3, 1, 32, 32), dtype=np.float32)


def _edited(path: Path, change: Callable[[onnx.ModelProto], None], to: Path, *, sealed: bool = True) -> Path:
    """A file with a change, sealed again as whoever wrote it would."""
    model = onnx.load(path, load_external_data=False)
    kept = [entry for entry in model.metadata_props if entry.key != f"{PREFIX}seal"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    change(model)
    to.write_bytes(model.SerializeToString())
    if sealed:
        append_seal(to)
    return to


def _says(key: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == PREFIX + key:
                entry.value = value if isinstance(value, str) else json.dumps(value)

    return change


# --- the seal


def test_the_seal_is_the_last_entry_and_nothing_else_changes(digits_export: ExportResult, tmp_path: Path) -> None:
    sealed = digits_export.model.read_bytes()  # type: ignore[union-attr]
    assert read_seal(digits_export.model)  # type: ignore[arg-type]
    assert onnx.load(digits_export.model).metadata_props[-1].key == f"{PREFIX}seal"
    (tmp_path / "bare.onnx").write_bytes(sealed[:-88])
    bare = onnx.load(tmp_path / "bare.onnx")
    assert len(bare.metadata_props) == len(onnx.load(digits_export.model).metadata_props) - 1
    assert bare.graph == onnx.load(digits_export.model).graph
    append_seal(tmp_path / "bare.onnx")
    assert (tmp_path / "bare.onnx").read_bytes() == sealed


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        lambda data: data[:-1] + b"z",
        lambda data: data[:-88],
        lambda data: data + b"\n",
        lambda data: data[:-88] + b"\x72\x00" + data[-88:],
        lambda data: data[: len(data) // 2],
    ],
    ids=["weight", "seal", "no-seal", "appended", "inserted", "cut"],
)
def test_a_damaged_file_is_refused_by_every_step(
    cli: Cli, digits_export: ExportResult, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """Moved away from its record, as files are."""
    path = tmp_path / "moved.onnx"
    path.write_bytes(damage(digits_export.model.read_bytes()))  # type: ignore[union-attr]
    for command in (
        ("evaluate", path, "--limit", 8),
        ("bench", "digits", path, "--rounds", 10),
        ("check", path, "--baseline", digits_export.float_model, "--out", tmp_path / "out"),
        ("inspect", path),
    ):
        result = cli(*command)
        assert result.code == 2
        assert "moved.onnx" in result.err
        assert "Unexpected" not in result.err


def test_a_moved_file_runs(digits_export: ExportResult, tmp_path: Path) -> None:
    shutil.copy(digits_export.model, tmp_path / "moved.onnx")  # type: ignore[arg-type]
    moved = open_artifact(tmp_path / "moved.onnx").run(IMAGES)
    np.testing.assert_array_equal(moved, open_artifact(digits_export.directory).run(IMAGES))


# --- what it says


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preprocessing", {"size": [32, 32], "mean": [0.5], "std": [0.5], "crop": 1e-9}),
        ("preprocessing", {"size": [16, 16], "mean": [0.5], "std": [0.5]}),
        ("preprocessing", {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}),
        ("preprocessing", {"size": [32.5, 32], "mean": [0.5], "std": [0.5]}),
        ("preprocessing", {"size": [32, 32], "mean": ["a"], "std": [0.5]}),
        ("preprocessing", {"size": [32, 32], "mean": [0.5], "std": [0.5], "more": 1}),
        ("preprocessing", '{"size": [32, 32], "mean": [NaN], "std": [0.5]}'),
        ("preprocessing", "[" * 5000),
        ("classes", ["one"]),
        ("classes", [1] * 10),
        ("classes", ["a\nb"] * 10),
        ("classes", {"a": 1}),
        ("runtimes", {"onnxruntime": 1}),
        ("runtimes", "5"),
    ],
    ids=str,
)
def test_metadata_is_typed_and_fits_the_input(
    digits_export: ExportResult, tmp_path: Path, key: str, value: Any
) -> None:
    path = _edited(digits_export.model, _says(key, value), tmp_path / "m.onnx")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="metadata cannot be used"):
        read_onnx(path)


def test_nothing_that_ships_names_a_path_of_this_machine(
    digits_export: ExportResult, digits_engines: ExportResult
) -> None:
    places = [
        str(digits_export.directory.parent).encode(),
        str(Path(__file__).parents[2]).encode(),
        b"/tmp/",
        b"/home/",
    ]
    for directory in (digits_export.directory, digits_engines.directory):
        files = list(directory.iterdir())
        assert len(files) >= 3
        for path in files:
            data = path.read_bytes()
            assert not [place for place in places if place in data], path


# --- floors


def test_the_lowest_runtime_is_said_and_demanded(digits_export: ExportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    assert read_onnx(digits_export.model).runtimes == TARGETS["onnx-cpu"].lowest  # type: ignore[arg-type]
    assert read_record(digits_export.directory).runtimes == TARGETS["onnx-cpu"].lowest
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(RuntimeUnavailableError, match=r"needs onnxruntime 1\.24\.1 or newer, and 1\.23\.2"):
        open_artifact(digits_export.directory)


@pytest.mark.parametrize(
    ("found", "lowest", "older"),
    [
        ("1.24.1", "1.24.1", False),
        ("1.24.0", "1.24.1", True),
        ("1.24", "1.24.1", True),
        ("1.31.0.dev2026", "1.24.1", False),
        ("2026.4.1-22982-e213a147257-releases/2026/4", "2025.0", False),
        ("2024.6.0-17404-4c0f47d2335-releases/2024/6", "2025.0", True),
    ],
)
def test_order_of_versions(found: str, lowest: str, older: bool) -> None:
    assert is_older(found, lowest) is older


# --- weights beside the file


@pytest.fixture(scope="module")
def outside(digits_quantized: QuantizedArtifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportResult]:
    """An export whose weights lie beside its files, as those over 2 GB do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_file, "LARGEST_INSIDE", 10_000)
        yield export(digits_quantized.path, out=tmp_path_factory.mktemp("outside") / "onnx")


def test_weights_beside_the_file_are_the_same_weights(outside: ExportResult, digits_export: ExportResult) -> None:
    names = {"model.onnx", "model.onnx.data", "model.float.onnx", "model.float.onnx.data"}
    assert {path.name for path in outside.directory.iterdir()} == names | {RECORD}
    assert set(read_record(outside.directory, files=True).files) == names
    assert {path.name for path in outside.beside} == {"model.onnx.data", "model.float.onnx.data"}
    assert outside.proof is not None and digits_export.proof is not None
    assert outside.proof.kernels == digits_export.proof.kernels
    for one, other in ((outside.model, digits_export.model), (outside.float_model, digits_export.float_model)):
        assert one is not None and other is not None
        np.testing.assert_array_equal(open_artifact(one).run(IMAGES), open_artifact(other).run(IMAGES))
        assert one.stat().st_size < other.stat().st_size / 2
        assert read_onnx(one).size_bytes == one.stat().st_size + Path(f"{one}.data").stat().st_size


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_weights_beside_the_file_of_other_targets(
    digits_quantized: QuantizedArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    pytest.importorskip({"openvino": "openvino", "tensorrt": "tensorrt_rtx"}[target])
    monkeypatch.setattr(export_file, "LARGEST_INSIDE", 10_000)
    options: dict[str, Any] = {"flavor": "rtx", "compute_capabilities": ["8.9"]} if target == "tensorrt" else {}
    result = export(digits_quantized.path, target=target, float=False, out=tmp_path / "out", **options)
    assert (tmp_path / "out" / "model.onnx.data").is_file()
    assert open_artifact(result.model, backend="cpu").run(IMAGES).shape == (3, 10)  # type: ignore[arg-type]
    if target == "openvino":
        assert open_artifact(result.model).run(IMAGES).shape == (3, 10)  # type: ignore[arg-type]
    else:
        assert len(result.engines) == 1


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (Path.unlink, "missing"),
        (_flip, "hash differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes where"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes where"),
        (_link, "no regular file"),
    ],
    ids=["missing", "changed", "cut", "longer", "link"],
)
def test_weights_beside_the_file_are_held_to_it(
    outside: ExportResult, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        shutil.copy(outside.directory / name, tmp_path)
    spoil(tmp_path / "model.onnx.data")
    with pytest.raises(ArtifactError, match=says):
        open_artifact(tmp_path / "model.onnx")


def _leading(location: str, **entries: str) -> Callable[[onnx.ModelProto], None]:
    """Let a constant's values lie in another file."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        while graph.node[-1].op_type == "Loop":
            graph = next(entry.g for entry in graph.node[-1].attribute if entry.HasField("g"))
        tensor = max(graph.initializer, key=lambda tensor: len(tensor.raw_data))
        entries.setdefault("length", str(len(tensor.raw_data)))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "sub/secret", "..", "", "a\\b", "link", "fifo"])
def test_no_constant_leads_out_of_the_folder(digits_export: ExportResult, tmp_path: Path, location: str) -> None:
    import os

    folder = tmp_path / "f"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(2**21))
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "fifo")
    path = _edited(digits_export.float_model, _leading(location), folder / "m.onnx")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"no name of a file|no regular file|metadata"):
        open_artifact(path)


def test_constants_end_where_their_file_does(digits_export: ExportResult, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(100))
    for entries in ({}, {"offset": "90", "length": "20"}, {"offset": "-1"}, {"length": "9" * 30}):
        change = _leading("small", **entries)
        path = _edited(digits_export.float_model, change, tmp_path / "m.onnx")  # type: ignore[arg-type]
        with pytest.raises(ArtifactError, match=r"ends beyond|no number of bytes"):
            read_onnx(path)


def test_a_sealed_file_names_the_files_that_it_uses(outside: ExportResult, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        shutil.copy(outside.directory / name, tmp_path)
    path = _edited(tmp_path / "model.onnx", _says(EXTERNAL, {}), tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match="other files beside it"):
        read_onnx(path)


# --- files of other origin


def _foreign(path: Path, weight: TensorProto | None = None, **attributes: Any) -> Path:
    weight = weight or numpy_helper.from_array(np.ones((16, 3), np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["y"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def test_a_file_of_other_origin_runs(tmp_path: Path) -> None:
    runtime = open_artifact(_foreign(tmp_path / "other.onnx"))
    assert runtime.info.format == "unknown"
    np.testing.assert_array_equal(runtime.run(np.ones((2, 1, 4, 4), np.float32)), np.full((2, 3), 16))


def test_its_weights_may_lie_beside_it(tmp_path: Path) -> None:
    path = _foreign(tmp_path / "other.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="other.data", size_threshold=0)
    first = open_artifact(path).info
    assert first.size_bytes == path.stat().st_size + (tmp_path / "other.data").stat().st_size
    _flip(tmp_path / "other.data")
    assert open_artifact(path).info.sha256 != first.sha256  # nothing in the file says which weights are meant


def test_constants_hold_what_their_shapes_say(tmp_path: Path) -> None:
    """A runtime would allocate by the shape alone."""
    for dims in ((1 << 20, 1 << 20), (-1, 3), (16, 4)):
        weight = numpy_helper.from_array(np.ones((16, 3), np.float32), "weight")
        weight.dims[:] = dims
        with pytest.raises(ArtifactError, match="the constant 'weight'"):
            open_artifact(_foreign(tmp_path / "other.onnx", weight))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process ended with -11"),
        ("while True: pass", "did not load it"),
        ("raise ValueError('the graph is no graph')", "the graph is no graph"),
    ],
    ids=["crash", "hang", "refusal"],
)
def test_what_a_runtime_does_not_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str) -> None:
    """A runtime that crashes or hangs stands in for the real one in that other process, and only there."""
    (tmp_path / "packages").mkdir()
    options = "class SessionOptions:\n    def add_session_config_entry(self, *a): pass\n"
    (tmp_path / "packages" / "onnxruntime.py").write_text(f"{options}def InferenceSession(*a, **k):\n    {body}\n")
    monkeypatch.setattr(onnx_trial, "SECONDS", 60 if says != "did not load it" else 5)
    path = _foreign(tmp_path / "other.onnx")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    with pytest.raises(ArtifactError, match=says):
        open_artifact(path)


def test_the_trial_takes_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    path = _foreign(tmp_path / "other.onnx")
    monkeypatch.chdir(tmp_path)
    open_artifact(path)
    assert not (tmp_path / "ran").exists()


# --- export.json


@pytest.mark.parametrize(
    "change",
    [
        {"target": 5},
        {"files": {"../model.onnx": {"sha256": "", "bytes": 1}}},
        {"files": []},
        {"engines": ["/x.engine"]},
        {"proof": {"summary": "", "kernels": {}}},
        {"proof": {"summary": "a\nb", "kernels": {}, "layers": []}},
        {"proof": {"summary": "x" * 1000, "kernels": {}, "layers": []}},
        {"manifest_sha256": 5},
        {"batches": ["a"]},
    ],
    ids=str,
)
def test_record_of_an_export_is_typed(
    cli: Cli, digits_export: ExportResult, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(digits_export.directory, tmp_path / "onnx")
    path = tmp_path / "onnx" / RECORD
    write_sealed(path, {**json.loads(path.read_text()), **change})
    for command in (("inspect", tmp_path / "onnx"), ("check", tmp_path / "onnx", "--out", tmp_path / "r")):
        result = cli(*command)
        assert result.code == 2
        assert "record of the export cannot be used" in result.err


def test_record_of_an_export_is_sealed(cli: Cli, digits_export: ExportResult, tmp_path: Path) -> None:
    shutil.copytree(digits_export.directory, tmp_path / "onnx")
    path = tmp_path / "onnx" / RECORD
    path.write_text(path.read_text().replace("QGemm", "Gemm!"))
    for command in (("inspect", tmp_path / "onnx"), ("check", tmp_path / "onnx" / "model.onnx")):
        result = cli(*command, *(["--baseline", "digits", "--out", tmp_path / "r"] if command[0] == "check" else []))
        assert result.code == 2
        assert "edited" in result.err


def test_a_file_is_read_once_as_it_is_opened(digits_export: ExportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files are hashed as they are read, and those of other origin are tried in a process of their own."""
    reads: list[Path] = []
    inner = onnx_file.read_seal
    monkeypatch.setattr(onnx_file, "read_seal", lambda path: reads.append(path) or inner(path))
    open_artifact(digits_export.directory)
    assert reads == [digits_export.model]
