"""What networks are for: names in files, and what a task decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from illama_deploy.errors import ArtifactError
from illama_deploy.measure import Accuracy, FeatureAccuracy, PixelAccuracy
from illama_deploy.measure.features import find_neighbours
from illama_deploy.onnx_metadata import PREFIX
from illama_deploy.onnx_seal import append_seal
from illama_deploy.report import GATES
from illama_deploy.runtime.onnx_file import read_onnx
from illama_deploy.steps.export import ExportResult
from illama_deploy.task_names import LINES, classes_of, labels_for, name_by_logits, names_by_logits
from illama_deploy.tasks import TASKS, find_task, task_of


def test_a_file_is_known_by_its_logits_where_it_says_nothing() -> None:
    assert name_by_logits((10,)) == "classification"
    assert name_by_logits((10, 32, 32)) == "segmentation"
    assert name_by_logits((10,), "classification") == "classification"
    assert name_by_logits((10,), "features") == "features"  # no shape tells them, so a file must say it
    for shape, said in (((10,), "segmentation"), ((10, 32, 32), "features"), ((10,), "regression"), ((10, 3), None)):
        with pytest.raises(ValueError, match="logits"):
            name_by_logits(shape, said)


def test_features_are_measured_by_labels_of_classes() -> None:
    assert [labels_for(name) for name in TASKS] == ["classification", "segmentation", "classification"]
    assert [classes_of(name, 10) for name in TASKS] == [10, 10, None]
    assert names_by_logits((10,)) == ["classification", "features"]


def test_every_export_says_its_task(digits_export: ExportResult) -> None:
    assert digits_export.model is not None
    props = {prop.key: prop.value for prop in onnx.load(digits_export.model).metadata_props}
    assert props[f"{PREFIX}task"] == read_onnx(digits_export.model).task == "classification"


def test_a_file_of_another_task_than_its_logits_is_refused(digits_export: ExportResult, tmp_path: Path) -> None:
    assert digits_export.model is not None
    model, path = onnx.load(digits_export.model), tmp_path / "model.onnx"
    kept = [prop for prop in model.metadata_props if not prop.key.endswith(".seal")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    [task] = [prop for prop in kept if prop.key == f"{PREFIX}task"]
    next(prop for prop in model.metadata_props if prop.key == task.key).value = "segmentation"
    onnx.save(model, path)
    append_seal(path)
    with pytest.raises(ArtifactError, match="are not those of the task 'segmentation'"):
        read_onnx(path)


def test_every_task_has_its_gates_and_figures() -> None:
    assert [task.name for task in TASKS.values()] == [line.name for line in LINES]
    for task in TASKS.values():
        assert {task.drop_gate, task.change_gate, task.least_gate} <= GATES.keys()
        assert task.figure in {key for key, _, _ in task.figures}
        assert {"agreement", "logit_sqnr_db"} <= {key for key, _, _ in task.compared}
        assert find_task(task.name) is task_of({"data": {"task": task.name}}) is task
    assert task_of({"data": {}}) is TASKS["classification"]


def test_drops_of_stored_and_of_measured_figures_are_one() -> None:
    """What a report keeps gives the interval that the check gave."""
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 60), rng.standard_normal((2, 60, 3))
    whole = [Accuracy(2), Accuracy(2)]
    pixels = [PixelAccuracy(3), PixelAccuracy(3)]
    for seen, dense, some in zip(whole, pixels, logits, strict=True):
        seen.update(some, labels)
        for image in range(4):
            scores = torch.from_numpy(rng.standard_normal((3, 5, 6)))
            dense.update(scores, labels[: 5 * 6].reshape(5, 6) if image else np.zeros((5, 6), int))
    alike = [FeatureAccuracy(find_neighbours(some), labels) for some in logits]
    for name, (before, after) in {"classification": whole, "segmentation": pixels, "features": alike}.items():
        task = find_task(name)
        then, now = (task.named(one.to_dict(), "abc") | task.kept(one) for one in (before, after))
        assert task.drop_since(then, now, 0.9) == task.drop_from(before, after, 0.9)
