"""A quantized directory is believed only where its seal holds, its values are what their names say, and they agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from illama_deploy import ArtifactError
from illama_deploy.hashing import canonical_json, sha256_file
from illama_deploy.quant import QuantizedArtifact, load_quantized
from illama_deploy.quant.artifact import MANIFEST, WEIGHTS
from illama_deploy.sealed import write_sealed
from illama_deploy.steps.quantize import quantize

from ..conftest import Cli


@pytest.fixture(scope="module")
def w4a8(tmp_path_factory: pytest.TempPathFactory) -> QuantizedArtifact:
    return quantize(bits=4, calib_images=32, out=tmp_path_factory.mktemp("w4a8") / "quantized")


@pytest.fixture
def copy(w4a8: QuantizedArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(w4a8.path, tmp_path / "q"))


def _seal(directory: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and seal it anew, as one who means harm would."""
    content = json.loads((directory / MANIFEST).read_text())
    edit(content)
    content.setdefault("weights", {})["sha256"] = sha256_file(directory / WEIGHTS)
    write_sealed(directory / MANIFEST, content)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    *parents, last = path.split("/")

    def edit(content: dict[str, Any]) -> None:
        for name in parents:
            content = content[name]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return edit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("geometry/heads", 4),
        ("geometry/mask", "additive"),
        ("preprocessing/mean", [0.9]),
        ("recipe/rewrites", []),
        ("sites/head/format", "W4A8"),
        ("sites/head/inputs/input/threshold", 1.0),
        ("classes", ["a", "b"]),
    ],
)
def test_an_edit_shows(cli: Cli, copy: Path, path: str, value: Any) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    _set(path, value)(content)
    (copy / MANIFEST).write_text(canonical_json(content))
    result = cli("evaluate", copy, "--limit", 8)
    assert result.code == 2
    assert "was edited after it was written" in result.err


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("geometry/heads", 4, "heads"),
        ("geometry/heads", "2", "`$.geometry.heads`"),
        ("geometry/depth", 1.5, "`$.geometry.depth`"),
        ("geometry/depth", 9_999_999, "blocks"),
        ("geometry/hidden", 10**12, "fc1"),
        ("geometry/classes", 11, "classes"),
        ("geometry/mask", "diagonal", "mask"),
        ("geometry/image_size", [], "image_size"),
        ("geometry/image_size", [10**12, 32], "preprocessing"),
        ("preprocessing/size", [64, 64], "preprocessing"),
        ("preprocessing/crop", -1, "crop"),
        ("preprocessing/mean", "abc", "mean"),
        ("preprocessing", [], "preprocessing"),
        ("recipe/rewrites", ["rotate_everything"], "rotate_everything"),
        ("recipe/rewrites", "fold_norms", "rewrites"),
        ("recipe/calib_images", 1e9, "calib_images"),
        ("recipe", 5, "recipe"),
        ("sites", {}, "site"),
        ("sites/head/format", "W5A5", "W5A5"),
        ("sites/head/format", "W4A8", "head.weight_q"),
        ("sites/head/inputs", {}, "head"),
        ("sites/head/inputs/input/scale", 0.5, "head"),
        ("sites/head/inputs/input/scale", -0.5, "range"),
        ("sites/head/inputs/input/threshold", None, "threshold"),
        ("sites/blocks.7.mlp.fc1", {"format": "W8A8", "sqnr_db": 1, "inputs": {}}, "blocks.7.mlp.fc1"),
        ("sites/norm", {"format": "W8A8", "sqnr_db": 1, "inputs": {}}, "norm"),
        ("data/indices", [3, 2, 1], "in order"),
        ("data/indices", [-1, 2], "beyond"),
        ("data/indices", ["0"], "`$.data.indices[0]`"),
        ("data/skipped", 5, "skipped"),
        ("format", "W3A3", "W3A3"),
        ("logit_sqnr_db", "high", "logit_sqnr_db"),
        ("logit_sqnr_db", 1e300, "dB"),
        ("sqnr_images", 10**9, "images"),
        ("versions", ["torch"], "versions"),
        ("source/sha256", "zz", "hash"),
        ("source/ema", 1, "ema"),
        ("classes", [1, 2], "classes"),
        ("classes", ["a", "b"], "classes"),
        ("weights/file", "../model.safetensors", "weights"),
        ("kernels", None, "kernels"),
        ("reconstructed", {"blocks.0": [1, 2]}, "reconstructed"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_under_a_good_seal(
    cli: Cli, copy: Path, path: str, value: Any, says: str
) -> None:
    _seal(copy, _set(path, value))
    result = cli("export", copy, "--onnx", "--out", copy.with_name("out"))
    assert result.code == 2, result.out
    assert says in result.err
    assert "Unexpected" not in result.err
    assert not copy.with_name("out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema": "illama-deploy/quantized/3", "schema": "illama-deploy/quantized/3"}', "twice"),
        ('{"schema": "illama-deploy/quantized/3", "x": NaN}', "NaN"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ("5", "schema"),
    ],
    ids=["twice", "nan", "deep", "number"],
)
def test_json_that_nobody_writes(cli: Cli, copy: Path, text: str, says: str) -> None:
    (copy / MANIFEST).write_text(text)
    result = cli("evaluate", copy)
    assert result.code == 2
    assert says in result.err


def _first(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.flatten()[:1] = value
    return changed


FC1 = "blocks.0.mlp.fc1"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head.weight_scale", lambda t: _first(t, 0.0)),
        ("head.weight_scale", lambda t: _first(t, -0.1)),
        ("head.weight_scale", lambda t: _first(t, float("nan"))),
        ("head.weight_scale", lambda t: _first(t, float("inf"))),
        ("head.input_scale", lambda t: t * 0),
        ("head.input_scale", lambda t: -t),
        ("head.input_scale", lambda t: t * 2),
        ("head.weight_q", lambda t: t.float()),
        ("head.weight_q", lambda t: t.to(torch.int32)),
        ("head.bias_q", lambda t: _first(t, 2**31 - 1)),
        ("head.bias_q", lambda t: t.float()),
        (f"{FC1}.weight_q", lambda t: torch.cat((t, t[:1]))),
        (f"{FC1}.weight_q", lambda t: t[:-1]),
        (f"{FC1}.weight_q", lambda t: t.to(torch.int8)),
        (f"{FC1}.weight_q", lambda t: t[None]),
        ("pos_embed", lambda t: _first(t, float("nan"))),
        ("pos_embed", lambda t: t[..., :-1]),
        ("pos_embed", lambda t: t.double()),
    ],
)  # fmt: skip
def test_tensors_that_are_not_what_their_name_says(copy: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Under a manifest that is sealed for them."""
    tensors = load_file(copy / WEIGHTS)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, copy / WEIGHTS)
    _seal(copy, lambda content: None)
    with pytest.raises(ArtifactError) as refused:
        load_quantized(copy)
    assert name.rpartition(".")[0] in str(refused.value)
    assert "  next:  " in str(refused.value)


@pytest.mark.parametrize("change", ["missing", "more"])
def test_tensors_too_few_or_too_many(copy: Path, change: str) -> None:
    tensors = load_file(copy / WEIGHTS)
    if change == "missing":
        del tensors["head.weight_q"]
    else:
        tensors["head.weight_zero"] = torch.zeros(1)
    save_file(tensors, copy / WEIGHTS)
    _seal(copy, lambda content: None)
    with pytest.raises(ArtifactError, match=r"head\.weight_(q is missing|zero is not known)"):
        load_quantized(copy)


@pytest.mark.slow
def test_three_bits_hold_no_more(tmp_path: Path) -> None:
    """They are stored in four, which hold integers beyond them."""
    artifact = quantize(format="W3A3", calib_images=16, out=tmp_path / "q")
    tensors = load_file(artifact.path / WEIGHTS)
    tensors[f"{FC1}.weight_q"].flatten()[:1] = 0x77
    save_file(tensors, artifact.path / WEIGHTS)
    _seal(artifact.path, lambda content: None)
    with pytest.raises(ArtifactError, match="beyond 3 bits"):
        load_quantized(artifact.path)


def test_the_manifest_in_typed_values(w4a8: QuantizedArtifact) -> None:
    about = w4a8.about
    assert about.format == "W4A8"
    assert about.resolved_geometry == w4a8.model.config
    assert about.formats == w4a8.formats
    assert about.sites["head"].inputs["input"].scale == float(w4a8.model.head.input_scale)  # type: ignore[union-attr, arg-type]
    assert about.cpu["capability"] == torch.backends.cpu.get_cpu_capability()
    assert w4a8.manifest["sites"]["head"]["format"] == "W8A8"


@pytest.mark.slow
def test_the_record_of_a_search_is_sealed(cli: Cli, tmp_path: Path) -> None:
    from illama_deploy.steps.shared.search import search_rows

    artifact = quantize(max_size="60%", calib_images=32, held_out_images=100, out=tmp_path / "q")
    assert artifact.about.search is not None
    assert artifact.about.search.images == 100
    search_rows(artifact.path)
    record = artifact.path / "search.json"
    record.write_text(record.read_text().replace('"chosen": ', '"chosen": 1'))
    with pytest.raises(ArtifactError, match="edited"):
        search_rows(artifact.path)
