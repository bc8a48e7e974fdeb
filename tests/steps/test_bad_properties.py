"""Properties that cannot be measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from illama_deploy.steps.export import ExportResult

from ..bad_input import (
    QUICK,
    Refused,
)
from ..conftest import Cli

MAPPING = {"three": [3], "seven": [7]}


@pytest.fixture
def shape(tmp_path: Path) -> Callable[..., tuple[object, ...]]:
    """Options for shape bias: stimuli of these names, and this mapping (as text, or as a value)."""

    def make(*names: str, mapping: object = MAPPING) -> tuple[object, ...]:
        stimuli, path = tmp_path / "stimuli", tmp_path / "mapping.json"
        stimuli.mkdir()
        for name in names or ("three1-seven1.png",):
            Image.new("L", (8, 8), 90).save(stimuli / name)
        path.write_text(mapping if isinstance(mapping, str) else json.dumps(mapping))
        return "--limit", 8, "--properties", "shape-bias", "--cue-conflict", stimuli, "--categories", path

    return make


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--properties", "beauty"), ("no property 'beauty'", "shape-bias")),
        (("--properties", "shape-bias"), ("needs cue-conflict stimuli", "--cue-conflict")),
        (("--cue-conflict", "."), ("belongs to the property shape-bias",)),
        (("--categories", "a.json"), ("belongs to the property shape-bias",)),
        (("--fit-temperature",), ("belongs to the property calibration",)),
        (("--corruption", "fog"), ("belongs to the property corruptions",)),
        (("--mask", "bidirectional"), ("belongs to the property attention-rank",)),
        (("--bins", 0), ("at least one bin", "--bins")),
        (("--binning", "equal"), ("no binning 'equal'", "equal-mass")),
        (("--properties", "attention-rank", "--mask", "odd"), ("no mask 'odd'", "bidirectional")),
        (("--properties", "attention-rank", "--mask", "1.5"), ("no mask '1.5'",)),
        (("--properties", "attention-rank", "--rank-images", 0), ("at least 1", "--rank-images")),
        (("--properties", "calibration", "--calib-images", 0), ("at least 1", "--calib-images")),
        (("--properties", "calibration", "--fit-temperature", "--calib-split", "test"), ("judged on", "--calib-split")),
        (("--properties", "calibration", "--fit-temperature", "--calib-split", "odd"), ("no split 'odd'",)),
        (("--properties", "corruptions", "--severity", 6), ("Severities are 1 to 5",)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_property_options(refused: Refused, options: tuple[object, ...], says: tuple[str, ...]) -> None:
    refused("evaluate", "digits", "--limit", 8, *options, says=says)


def test_property_options_of_check(refused: Refused) -> None:
    options = ("--baseline", "digits", *QUICK, "--properties", "shape-bias")
    refused("check", "digits", *options, says=("needs cue-conflict stimuli",))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--corruption", "rain"), ("no corruption 'rain'", "gaussian_noise")),
        (("--image-size", 16), ("from 32 px on", "16×16")),
    ],
    ids=["unknown", "too small"],
)
def test_corruptions_that_cannot_be(refused: Refused, options: tuple[object, ...], says: tuple[str, ...]) -> None:
    pytest.importorskip("imagecorruptions")
    refused("evaluate", "digits", "--limit", 8, "--properties", "corruptions", *options, says=says)


def test_corruptions_without_the_library(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    options = ("--limit", 8, "--properties", "corruptions")
    refused("evaluate", "digits", *options, says=("illama-deploy[corruptions]",))


def test_attention_of_an_exported_file(refused: Refused, digits_export: ExportResult) -> None:
    says = ("attention-rank cannot be measured", "onnxruntime", "quantized directory")
    refused("evaluate", digits_export.model, "--limit", 8, "--properties", "attention-rank", says=says)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("three1-seven1.png", "odd.png"), ("1 of 2 stimuli have unknown names", "odd.png", "SHAPEn-TEXTUREm")),
        (("three-seven.png",), ("unknown names", "three-seven.png")),
        (("three1-three2.png",), ("no cue-conflict stimulus",)),
        (("three1-seven1.png", "bear1-three1.png"), ("misses categories", "bear (1 times)", "mapping.json")),
    ],
    ids=["unknown name", "no numbers", "no conflict", "missed by the mapping"],
)
def test_stimuli(
    refused: Refused, shape: Callable[..., tuple[object, ...]], names: tuple[str, ...], says: tuple[str, ...]
) -> None:
    refused("evaluate", "digits", *shape(*names), says=says)


def test_stimuli_that_are_not_there(refused: Refused, tmp_path: Path) -> None:
    options = ("--properties", "shape-bias", "--cue-conflict")
    refused("evaluate", "digits", "--limit", 8, *options, tmp_path / "none", says=("no such folder", "none"))
    (tmp_path / "empty").mkdir()
    refused(
        "evaluate", "digits", "--limit", 8, *options, tmp_path / "empty", says=("no cue-conflict stimulus", "empty")
    )


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("{", ("no JSON", "mapping.json")),
        ([1, 2], ("no table of categories",)),
        ({"three": []}, ("no table of categories",)),
        ({"three": [3], "seven": [10]}, ("'seven' has 10", "0 to 9")),
        ({"three": [3], "seven": [True]}, ("expected `int | str`, got `bool`",)),
        ({"three": [3], "seven": [3]}, ("Class 3 stands in 'three' and again in 'seven'",)),
        ({"three": ["3"], "seven": ["sevn"]}, ("no class 'sevn'", "mapping.json")),
    ],
    ids=["no JSON", "a list", "empty", "beyond", "no number", "twice", "unknown class"],
)
def test_mapping(
    refused: Refused, shape: Callable[..., tuple[object, ...]], mapping: object, says: tuple[str, ...]
) -> None:
    refused("evaluate", "digits", *shape(mapping=mapping), says=says)


def test_mapping_that_is_needed(refused: Refused, shape: Callable[..., tuple[object, ...]]) -> None:
    options = shape()[:-2]
    refused("evaluate", "digits", *options, says=("10 classes", "--categories"))
    refused("evaluate", "digits", *options, "--categories", "none.json", says=("cannot be read", "none.json"))


def test_broken_stimulus(refused: Refused, shape: Callable[..., tuple[object, ...]], cli: Cli, tmp_path: Path) -> None:
    options = shape("three1-seven1.png", "seven2-three1.png")
    (tmp_path / "stimuli" / "seven2-three1.png").write_bytes(b"no image")
    refused("evaluate", "digits", *options, says=("cannot be decoded", "seven2-three1.png", "--skip-broken"))
    code, _, err = cli("evaluate", "digits", *options, "--skip-broken", "--json", tmp_path / "out.json")
    assert code == 0, err
    found = json.loads((tmp_path / "out.json").read_text())["properties"]["shape_bias"]
    assert (found["stimuli"], len(found["skipped"])) == (1, 1)


def test_no_temperature_is_the_best(refused: Refused) -> None:
    """Eight digits of the training half are all right: a colder temperature is always better."""
    options = ("--properties", "calibration", "--fit-temperature", "--calib-images", 8)
    refused("evaluate", "digits", "--limit", 8, *options, says=("No temperature is the best", "--calib-split"))


@pytest.mark.parametrize("temperature", [0, -1, "nan", "inf"])
def test_export_with_no_temperature(refused: Refused, quantized: Path, temperature: object) -> None:
    refused("export", quantized, "--onnx", "--temperature", temperature, says=("no temperature", "--fit-temperature"))
