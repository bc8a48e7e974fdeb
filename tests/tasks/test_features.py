"""Networks without a classifier: from timm's own to a gate on what their features are worth."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import Tensor

from illama_deploy.checkpoint import EMBEDDED
from illama_deploy.data import Loader, open_data
from illama_deploy.errors import ArtifactError, DataError, UsageError
from illama_deploy.hashing import canonical_json
from illama_deploy.model.families import build_network
from illama_deploy.model.network import Network
from illama_deploy.model.timm_vits import read_timm
from illama_deploy.onnx_metadata import PREFIX
from illama_deploy.options.groups import Evaluated, Preparation
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.quant import QuantizedArtifact, load_quantized, save_quantized
from illama_deploy.recipe import Recipe
from illama_deploy.report import RENDERERS, read_report, render_history, seal
from illama_deploy.rewrites import rewrites_for
from illama_deploy.runtime import ArtifactInfo
from illama_deploy.runtime.onnx_file import read_onnx
from illama_deploy.steps.check import check
from illama_deploy.steps.evaluate import evaluate, open_evaluation_data
from illama_deploy.steps.export import export
from illama_deploy.steps.inspect import inspect
from illama_deploy.steps.qat import qat
from illama_deploy.steps.shared.calibrated import calibrate, choose_sites, figures
from illama_deploy.targets.open import open_artifact
from illama_deploy.targets.torch_cpu.simulated import TorchRuntime

from ..measure.test_features import plain_knn, plain_order, shared_nearest

PREPROCESSING = Preprocessing((16, 16), mean=(0.5,), std=(0.5,))
#: Enough of the embedded images for figures that can be checked pair by pair.
FEW = 150
CHECKED: dict[str, Any] = {"rounds": 10, "batch": [1], "max_latency_ratio": 50, "sensitivity": False}


class Place(NamedTuple):
    model: Network
    reference: TorchRuntime
    quantized: QuantizedArtifact


def _runtime(model: Network, name: str, format_: str = "float32") -> TorchRuntime:
    runtime = TorchRuntime(model, ArtifactInfo(name, format_, "torch", "CPU", 0, "0" * 64), PREPROCESSING, 1)
    runtime.data = "digits"
    return runtime


def _network() -> tuple[Network, torch.nn.Module]:
    """A small network of timm's without a head, as one of ours."""
    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, in_chans=1, num_classes=0, depth=2
    ).eval()
    with torch.no_grad():  # until random features know the digits apart: 92 % by their neighbours
        for layer in theirs.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(4)
        theirs.pos_embed.mul_(25)
    reading = read_timm("vit_tiny_patch16_224", theirs)
    model = build_network(reading.config)
    model.load_state_dict(reading.translate(theirs.state_dict()))
    return model.eval(), theirs


def _quantize(model: Network, out: Path) -> QuantizedArtifact:
    """What `quantize` does with a float checkpoint, on the embedded images."""
    loader = Loader(
        open_data("digits", None, role="calibrate"),
        PREPROCESSING,
        classes=model.config.label_classes,
        labels=False,
        indices=range(128),
    )
    recipe = Recipe.for_format("W8A8", "balanced")
    recipe = recipe.override(rewrites=rewrites_for(recipe.rewrites, model))
    sites, choices = choose_sites(model, recipe)
    origin = {"name": "features.safetensors", "sha256": "0" * 64, "heads": model.config.heads, "ema": False}
    calibrated = calibrate(copy.deepcopy(model), origin, PREPROCESSING, recipe, loader, sites, choices)
    formats = {name: each[0] for name, each in choices.items()}
    quantized, _ = calibrated.quantize(formats)
    about = {"kind": "digits", "split": "train", "images": len(loader.source), "indices": list(loader.indices)}
    manifest = {
        "format": recipe.format,
        "recipe": recipe.to_dict(),
        "source": origin,
        "kernels": {},
        "classes": list(loader.class_names),
        "preprocessing": PREPROCESSING.to_dict(),
        "data": {**about, "skipped": [], "notes": loader.notes},
        "versions": {},
        "reconstructed": {},
        **figures(calibrated, quantized, formats),
    }
    out.mkdir()
    save_quantized(out, quantized, manifest)
    return load_quantized(out)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    model, _ = _network()
    return Place(model, _runtime(model, "float"), _quantize(model, tmp_path_factory.mktemp("features") / "quantized"))


@pytest.fixture(scope="module")
def exported(place: Place) -> Path:
    out = place.quantized.path.parent / "onnx"
    export(place.quantized.path, float=False, out=out)
    return out


def _images(count: int = FEW) -> tuple[Tensor, np.ndarray]:
    source = open_data("digits", None, role="evaluate")
    batches = list(Loader(source, PREPROCESSING, classes=None, indices=range(count)))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches]).numpy()


def _unlabelled(folder: Path, count: int = 40) -> str:
    folder.mkdir()
    for sample in open_data("digits", None, role="evaluate").read(range(count)):
        sample.load().save(folder / f"{sample.index:03}.png")
    return f"folder:{folder}"


# --- what the network is


def test_the_network_gives_out_timms_features_and_says_so(place: Place, exported: Path) -> None:
    model, theirs = _network()
    images, _ = _images(8)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images))
    assert (model.config.task, model.config.label_classes) == ("features", None)
    assert place.quantized.model.config.task == "features"
    assert place.quantized.manifest["classes"] == []  # the data's ten are not its
    found = [open_artifact(place.quantized.path), open_artifact(exported)]
    assert {(one.task, one.classes, one.class_names) for one in found} == {("features", 192, ())}


def test_files_say_their_task_and_are_classifiers_otherwise(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    assert read_onnx(exported / "model.onnx").task == "features"
    kept = [one for one in model.metadata_props if not one.key.startswith(PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.producer_name = ""
    onnx.save(model, tmp_path / "model.onnx")
    assert read_onnx(tmp_path / "model.onnx").task == "classification"


# --- figures


def test_figures_are_those_of_a_plain_computation(place: Place) -> None:
    images, labels = _images()
    with torch.no_grad():
        before, after = (one(images).numpy() for one in (place.model, place.quantized.model))
    orders = plain_order(before), plain_order(after)
    result = evaluate(place.quantized.path, reference=place.reference, limit=FEW)
    pairs = zip(before.astype(np.float64), after.astype(np.float64), strict=True)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    noise = np.square(after.astype(np.float64) - before).sum()
    assert result.figures == {
        "knn": pytest.approx(plain_knn(after, labels, 20)),
        "k": 20,
        "images": FEW,
        "cosine": pytest.approx(100 * np.mean(cosines), abs=1e-4),
        "agreement": pytest.approx(shared_nearest(*orders, 1), abs=1),
        "neighbours": pytest.approx(shared_nearest(*orders, 5), abs=1),
        "logit_sqnr_db": pytest.approx(10 * np.log10(np.square(before.astype(np.float64)).sum() / noise), abs=0.1),
    }
    assert result.notes == ()
    assert result.figures["knn"] > 60  # ten classes
    assert result.figures["cosine"] > 99.9
    assert 80 < result.figures["agreement"] < 100


@pytest.mark.slow
def test_a_file_has_the_figures_of_what_it_was_made_of(place: Place, exported: Path) -> None:
    found = evaluate(exported, reference=place.quantized.path, limit=FEW).figures
    assert found["cosine"] > 99.99
    assert found["agreement"] >= 97
    assert found["logit_sqnr_db"] > 40
    assert inspect(place.quantized.path, images=0).figures["sites"]


@pytest.mark.slow
def test_a_damaged_artifact_loses_agreement(place: Place, tmp_path: Path) -> None:
    """Its rows in another order: the same numbers, of which a classifier's size or seal would say nothing."""
    damaged = load_quantized(place.quantized.path).model
    layer = damaged.get_submodule("blocks.1.mlp.fc2")
    layer.weight_q.copy_(layer.weight_q.roll(1, 0))
    save_quantized(tmp_path, damaged, place.quantized.manifest)
    sound, lost = (
        evaluate(path, reference=place.reference, limit=FEW).figures for path in (place.quantized.path, tmp_path)
    )
    assert lost["cosine"] < sound["cosine"] - 1
    assert lost["agreement"] < sound["agreement"] - 10
    assert lost["neighbours"] < sound["neighbours"] - 5
    assert lost["logit_sqnr_db"] < sound["logit_sqnr_db"] - 10


@pytest.mark.slow
def test_features_may_be_kept_and_a_page_shows_all(place: Place, tmp_path: Path) -> None:
    features, html = tmp_path / "features.npz", tmp_path / "page.html"
    evaluate(place.quantized.path, reference=place.reference, limit=FEW, save_logits=features, html=html)
    kept = np.load(features)
    assert kept["logits"].shape == (FEW, 192)
    assert np.array_equal(kept["labels"], _images()[1])
    page = html.read_text(encoding="utf-8")
    for title in ("kNN top-1 %", "cosine %", "same nearest %", "of 5 nearest %", "feature SQNR dB"):
        assert title in page
    assert "logit SQNR" not in page


def test_images_need_no_labels(place: Place, tmp_path: Path) -> None:
    result = evaluate(place.quantized.path, reference=place.reference, data=_unlabelled(tmp_path / "images"))
    assert (result.figures["knn"], result.figures["images"]) == (None, 40)
    assert result.figures["cosine"] > 99.9
    assert any(note.startswith("without labels there is no kNN top-1: ") for note in result.data["notes"])


# --- what is refused


def test_what_features_cannot_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = place.quantized.path
    with pytest.raises(UsageError, match="calibration cannot be measured: it gives out features"):
        evaluate(quantized, properties=["calibration"])
    with pytest.raises(UsageError, match="for networks that classify pixels"):
        evaluate(quantized, stride=4)
    with pytest.raises(UsageError, match="learns classes from labels, and this network gives out features"):
        qat(quantized, data="digits")
    with pytest.raises(UsageError, match="192 classes"):
        evaluate(quantized, reference=EMBEDDED, preprocessing=PREPROCESSING.to_dict())
    with pytest.raises(UsageError, match="one image alone"):
        evaluate(quantized, limit=1)
    monkeypatch.setattr("illama_deploy.measure.features.MOST_IMAGES", 100)
    with pytest.raises(UsageError, match="100 images are compared at most"):
        check([quantized], baseline=place.reference, **CHECKED)
    assert evaluate(quantized, limit=100).figures["images"] == 100


def test_labels_of_pixels_are_no_labels_of_images(place: Place) -> None:
    source = open_data("digits", None, role="evaluate")
    source.require_task("features")
    source.task = "segmentation"
    with pytest.raises(DataError, match="labelled for segmentation and the network is for features"):
        source.require_task("features")
    loader = open_evaluation_data([place.reference], Evaluated(data="digits"), None, Preparation())
    assert (loader.classes, loader.class_names) == (None, ())


# --- gates


class Noisy(TorchRuntime):
    """Damaged: each image's feature is half of it noise."""

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        features = super().run(images_BCHW)
        noise = np.random.default_rng(int(1e3 * np.abs(images_BCHW).sum())).standard_normal(features.shape)
        return (features + features.std() * noise).astype(np.float32)


@pytest.fixture(scope="module")
def report(place: Place, exported: Path) -> Path:
    damaged = Noisy(place.model, ArtifactInfo("damaged", "float32", "torch", "CPU", 0, "1" * 64), PREPROCESSING, 1)
    out = place.quantized.path.parent / "report"
    candidates = [exported / "model.onnx", damaged]
    check(candidates, baseline=place.reference, max_drop=5, min_top1=80, out=out, **CHECKED)
    return out


@pytest.mark.slow
def test_check_gates_the_drop_in_knn(place: Place, report: Path) -> None:
    content = read_report(report / "report.json")
    assert content["data"]["task"] == "features"
    gates = {(gate["artifact"], gate["name"]): gate["verdict"] for gate in content["gates"]}
    baseline, candidate, damaged = content["artifacts"]
    name = candidate["info"]["name"]
    assert gates == {
        (name, "knn_drop"): "pass",
        (name, "min_knn"): "pass",
        (name, "latency_ratio"): "pass",
        ("damaged", "knn_drop"): "fail",
        ("damaged", "min_knn"): "fail",
        ("damaged", "latency_ratio"): "pass",
    }
    lost = damaged["comparison"]
    assert lost["knn_drop"] == pytest.approx(baseline["accuracy"]["knn"] - damaged["accuracy"]["knn"])
    assert lost["agreement"] < 50
    assert candidate["comparison"]["agreement"] > 80
    assert lost["cosine"] < 95
    assert set(lost["intervals"]) == {"knn_drop", "cosine", "agreement", "neighbours", "logit_sqnr_db"}
    assert all(low <= lost[key] <= high for key, (low, high) in lost["intervals"].items())
    assert baseline["comparison"]["cosine"] == baseline["comparison"]["agreement"] == 100
    for number, artifact in enumerate(content["artifacts"]):
        right, images = artifact["accuracy"]["knn"], artifact["accuracy"]["images"]
        assert images == content["data"]["images"] == 898
        if number == 0:
            _, labels = _images(898)
            with torch.no_grad():
                assert right == pytest.approx(plain_knn(place.model(_images(898)[0]).numpy(), labels, 20), abs=0.2)


@pytest.mark.slow
def test_every_face_shows_it(report: Path) -> None:
    content = read_report(report / "report.json")
    candidate = content["artifacts"][1]
    knn, cosine = candidate["accuracy"]["knn"], candidate["comparison"]["cosine"]
    figures = {
        "md": (f"{knn:.2f}", f"{cosine:.3f}"),
        "html": (f"{knn:.2f}", f"{cosine:.3f}"),
        "csv": (str(knn), str(cosine)),
    }
    for name, renderer in RENDERERS.items():
        text = (report / renderer.file).read_text(encoding="utf-8")
        assert text == renderer.render(content)
        assert ("kNN top-1" if name != "csv" else "knn_drop_low") in text
        assert all(figure in text for figure in figures.get(name, ()))
        assert "mIoU" not in text and "logit SQNR" not in text
    history = render_history([content])
    assert f"{knn:.2f}" in history["history.md"]
    assert "Drop in kNN top-1" in history["history.html"]


@pytest.mark.slow
def test_reports_that_contradict_themselves_are_refused(report: Path, tmp_path: Path) -> None:
    for number, (place, key, value) in enumerate(
        (("accuracy", "knn", None), ("comparison", "knn_drop", None), ("accuracy", "correct", "AAAA"))
    ):
        content = json.loads((report / "report.json").read_text(encoding="utf-8"))
        content["artifacts"][1][place][key] = value
        path = tmp_path / f"{number}.json"
        path.write_text(canonical_json(seal(content)), encoding="utf-8")
        with pytest.raises(ArtifactError, match="artifact 2"):
            read_report(path)


@pytest.mark.slow
def test_against_a_stored_report(place: Place, exported: Path, report: Path, tmp_path: Path) -> None:
    again = check(
        [exported / "model.onnx"],
        baseline=place.reference,
        against=report / "report.json",
        out=tmp_path / "again",
        **CHECKED,
    )
    gate = next(gate for gate in again.gates if gate.name == "knn_change")
    assert (gate.value, gate.against) == (0, read_report(report / "report.json")["created"])


@pytest.mark.slow
def test_without_labels_nothing_is_gated_and_all_else_is_shown(place: Place, tmp_path: Path) -> None:
    data, quantized = _unlabelled(tmp_path / "images"), place.quantized.path
    options = {"baseline": place.reference, "data": data, **CHECKED}
    check([quantized], min_top1=50, out=tmp_path / "report", **options)
    again = check([quantized], against=tmp_path / "report" / "report.json", out=tmp_path / "again", **options)
    gates = {gate.name: gate for gate in again.gates if gate.artifact != "float"}
    assert {str(gate.verdict) for gate in gates.values()} == {"inconclusive"}
    assert gates["knn_change"].not_measured == "the stored report's images: they have no labels"
    content = read_report(tmp_path / "report" / "report.json")
    why = {gate["name"]: gate["not_measured"] for gate in content["gates"]}
    assert why["knn_drop"] == why["min_knn"] == "the images have no labels"
    artifact = content["artifacts"][1]
    assert artifact["accuracy"]["knn"] is artifact["comparison"]["knn_drop"] is None
    assert "correct" not in artifact["accuracy"]
    shown = f"{artifact['comparison']['cosine']:.3f}"
    for name in ("html", "md"):
        assert shown in (tmp_path / "report" / RENDERERS[name].file).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report" / "benchmark.json").read_text())
    assert "–" in render_history([content])["history.md"]
