"""ExecuTorch programs: the same integers in XNNPACK's delegate, proven from the program itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from illama_deploy import ArtifactError, ExportError, Recipe, UsageError, evaluate, export, quantize
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.formats import FORMATS
from illama_deploy.model.illama import Illama, IllamaConfig
from illama_deploy.quant import QuantizedArtifact, load_quantized, modules
from illama_deploy.quant.modules import QuantWeighted
from illama_deploy.sealed import SEAL, write_sealed
from illama_deploy.steps.export import ExportResult
from illama_deploy.targets import TARGETS
from illama_deploy.targets.executorch.lowering import lower
from illama_deploy.targets.executorch.network import TWINS
from illama_deploy.targets.open import open_artifact, open_if_available

pytestmark = pytest.mark.slow

pytest.importorskip("executorch")

TARGET = TARGETS["executorch"]
IMAGES = np.random.default_rng(0).standard_normal((5, 1, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, QuantizedArtifact]:
    """Each format that has kernels; of W4A8 with online rotations and a site in float."""
    place = tmp_path_factory.mktemp("quantized")
    few: dict[str, Any] = {"calib_images": 64, "effort": "fast"}
    rotated = Recipe(
        format="W4A8",
        rewrites=(*Recipe().rewrites, "rotate_qk_online", "rotate_swiglu_online"),
        exclude=("blocks.0.attn.proj",),
        calib_images=64,
    )
    return {
        "W8A8": quantize("digits", format="W8A8", out=place / "w8a8", **few),
        "W8A8-dynamic": quantize("digits", format="W8A8-dynamic", out=place / "dynamic", **few),
        "W4A8": quantize("digits", recipe=rotated, out=place / "w4a8"),
    }


@pytest.fixture(scope="module")
def exported(quantized: dict[str, QuantizedArtifact], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """W4A8, compared layer by layer as it was written."""
    return export(
        quantized["W4A8"].path,
        target="executorch",
        verify=True,
        float=False,
        out=tmp_path_factory.mktemp("executorch") / "out",
    )


@pytest.mark.parametrize("name", ["W8A8", "W8A8-dynamic"])
def test_every_gemm_agrees_with_torch(quantized: dict[str, QuantizedArtifact], name: str) -> None:
    parity = TARGET.parity(quantized[name].model)
    assert len(parity.layers) == 12
    # A rounding that falls the other way in one of a million products; kernels that are wrong give 20 dB and less.
    assert min(layer.sqnr_db for layer in parity.layers) > 45, str(parity)


def test_static_steps_are_the_networks_own(quantized: dict[str, QuantizedArtifact]) -> None:
    """XNNPACK finds the range of each row itself, which other rows of the network change nothing about."""
    network = quantized["W8A8"].model
    assert TARGET.network(network) is network
    loud = IMAGES.copy()
    loud[0] *= 40
    with torch.no_grad():
        wanted = network(torch.from_numpy(loud)).numpy()
    program, _ = lower(network)
    path = quantized["W8A8"].path.parent / "loud.pte"
    path.write_bytes(program)
    [found] = TARGET.load(path)(loud)
    noise = np.square(found - wanted).sum() / np.square(wanted).sum()
    assert noise < 1e-4


def test_export_is_proven(exported: ExportResult, quantized: dict[str, QuantizedArtifact]) -> None:
    assert exported.proof is not None
    assert exported.proof.holds
    kernels = exported.proof.kernels
    assert sum(kernels.values()) == len(exported.proof.expected) == 11
    assert kernels["FullyConnected qdint8 x qcint4"] >= 8
    # Norms' means, two rotations in each of two blocks' attention and one in its MLP, and the site in float.
    assert {
        "blocks.0.norm1.mean",
        "blocks.1.attn.q.rotate",
        "blocks.0.mlp.product.rotate",
        "blocks.0.attn.proj",
    } <= set(exported.proof.float_gemms)
    assert exported.parity is not None
    assert exported.parity.departs is None


def test_runs_like_any_artifact(
    exported: ExportResult, quantized: dict[str, QuantizedArtifact], cli: Any, tmp_path: Path
) -> None:
    runtime = open_artifact(exported.directory, threads=1)
    assert (runtime.target, runtime.info.format, runtime.classes) == ("executorch", "W4A8", 10)
    with torch.no_grad():
        wanted = load_quantized(quantized["W4A8"].path).model(torch.from_numpy(IMAGES)).numpy()
    assert np.abs(runtime.run(IMAGES) - wanted).max() < 0.02 * np.abs(wanted).max()
    figures = evaluate(exported.model, reference=quantized["W4A8"].path, limit=100, threads=1).figures
    assert figures["agreement"] >= 99
    limits = ("--limit", 100, "--seconds", 0.1, "--max-drop", 20, "--max-latency-ratio", 100, "--threads", 1)
    checked = cli("check", exported.model, "--baseline", exported.model, *limits, "--out", tmp_path / "report")
    assert checked.code == 0, checked.err
    assert "FullyConnected qdint8 x qcint4" in cli("inspect", exported.directory).out


def test_float_and_quantized_from_the_command_line(
    quantized: dict[str, QuantizedArtifact], cli: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = cli("export", "digits", "--executorch", "--out", out)
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "model.float.pte", "model.float.pte.json"]
    runtime = open_artifact(out / "model.float.pte", threads=1)
    with torch.no_grad():
        wanted = read_checkpoint("digits").build()(torch.from_numpy(IMAGES)).numpy()
    assert np.abs(runtime.run(IMAGES) - wanted).max() < 1e-4


def _damaged(folder: Path, exported: ExportResult, name: str, change: Any) -> Path:
    """A copy of an export with one file changed."""
    assert exported.model is not None
    folder.mkdir()
    for path in (exported.model, exported.model.with_name("model.pte.json")):
        (folder / path.name).write_bytes(path.read_bytes())
    file = folder / name
    file.write_bytes(change(file.read_bytes()))
    return folder / "model.pte"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("model.pte", lambda data: data[:-1], "not the one that was exported"),
        ("model.pte", lambda data: data[:5000] + b"\xff" + data[5001:], "not the one that was exported"),
        ("model.pte.json", lambda data: data.replace(b'"classes": 10', b'"classes": 11'), "hash|edited|seal"),
        ("model.pte.json", lambda data: b"{", "JSON|cannot be read"),
    ],
    ids=["cut", "flipped", "edited", "no-json"],
)
def test_damaged(tmp_path: Path, exported: ExportResult, name: str, change: Any, says: str) -> None:
    """Nothing that was changed reaches ExecuTorch, which ends the process on some of it."""
    path = _damaged(tmp_path / "x", exported, name, change)
    with pytest.raises(ArtifactError, match=says):
        open_if_available(path, threads=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("gemms", ["x\n"]), ("image", [0, 1, 1]), ("class_names", ["a"]), ("program", {"file": "../x"}), ("format", 3)],
)
def test_sealed_nonsense(tmp_path: Path, exported: ExportResult, key: str, value: Any) -> None:
    """A seal that holds over what cannot be."""
    path = _damaged(tmp_path / "x", exported, "model.pte", lambda data: data)
    beside = path.with_name("model.pte.json")
    content = json.loads(beside.read_text(encoding="utf-8"))
    content = {k: v for k, v in content.items() if k != SEAL} | {key: value}
    beside.unlink()
    write_sealed(beside, content)
    with pytest.raises(ArtifactError, match="cannot be used"):
        open_artifact(path, threads=1)


def test_without_what_stands_beside(tmp_path: Path, exported: ExportResult) -> None:
    path = _damaged(tmp_path / "x", exported, "model.pte", lambda data: data)
    path.with_name("model.pte.json").unlink()
    with pytest.raises(ArtifactError, match="beside the program"):
        open_artifact(path, threads=1)


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    few: dict[str, Any] = {"calib_images": 32, "effort": "fast"}
    weights = quantize("digits", format="W4A16", out=tmp_path / "w4a16", **few)
    with pytest.raises(UsageError, match=r"no kernel for W4A16.*8-bit activations only"):
        export(weights.path, target="executorch", out=tmp_path / "out")
    products = quantize("digits", format="W8A8", attention_products=True, out=tmp_path / "products", **few)
    with pytest.raises(UsageError, match="no integer product of two activations"):
        export(products.path, target="executorch", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "not finite"), (0.0, "not above 0")])
def test_unsound_constants_are_never_written(
    quantized: dict[str, QuantizedArtifact], tmp_path: Path, value: float, says: str
) -> None:
    model = load_quantized(quantized["W8A8"].path).model
    model.blocks[0].mlp.fc2.weight_scale[3] = value  # type: ignore[operator, index]
    with pytest.raises(ExportError, match=rf"fc2\.weight.* {says}"):
        TARGET.write(model, tmp_path / "model.pte", {})
    assert not (tmp_path / "model.pte").exists()


def test_networks_that_classify_pixels() -> None:
    """Refused in words; before that, every kind of site has a twin."""
    sites = [site for site in vars(modules).values() if isinstance(site, type) and issubclass(site, QuantWeighted)]
    assert set(TWINS) == set(sites) - {QuantWeighted}
    network = Illama(IllamaConfig(64, 4, 2, image_size=(32, 32), patch_size=8, classes=3, head_width=16))
    with pytest.raises(UsageError, match="classifiers of whole images"):
        lower(network)


def test_table_is_whole() -> None:
    assert {name for name in FORMATS if TARGET.runs(name) is None} == set(TARGET.missing)


def test_threads_of_a_process_are_one_number(exported: ExportResult) -> None:
    assert exported.model is not None
    first = open_artifact(exported.model, threads=1)
    with pytest.raises(UsageError, match="share their threads"):
        open_artifact(exported.model, threads=2)
    assert first.run(IMAGES[:1]).shape == (1, 10)


def test_same_bytes_again(exported: ExportResult, quantized: dict[str, QuantizedArtifact], tmp_path: Path) -> None:
    again = export(quantized["W4A8"].path, target="executorch", float=False, out=tmp_path / "again")
    assert exported.model is not None
    assert again.model is not None
    assert again.model.read_bytes() == exported.model.read_bytes()


def test_norms_with_weights_and_all_tokens() -> None:
    """A float network without any rewrite, whose last block asks with all tokens."""
    network = read_checkpoint("digits").build()
    for block in network.blocks:
        block.norm1.weight.data.uniform_(0.5, 2)
    assert min(layer.sqnr_db for layer in TARGET.parity(network).layers) > 100
