"""Bad input of every kind: exit code 2, a message that names what is wrong, and nothing left behind."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor

from illama_deploy.checkpoint import find_checkpoint, read_checkpoint
from illama_deploy.onnx_metadata import PREFIX
from illama_deploy.onnx_seal import append_seal
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.report import RENDERERS
from illama_deploy.sealed import write_sealed
from illama_deploy.steps.export import ExportResult

from .conftest import Cli

Refused = Callable[..., str]
State = dict[str, Tensor]

#: What a checkpoint without metadata has to be told to be the digits network.
PLAIN = ("--data", "digits", "--mean", "0.3", "--std", "0.3")
#: The shortest check.
QUICK = ("--limit", 8, "--rounds", 10, "--batch", 1)


# --- helpers ---------------------------------------------------------------------------------------------------------


def assert_error(code: int, err: str, *says: str, hint: bool = True) -> None:
    """One message, exit code 2, each of `says` in it, and no fault of our own."""
    assert code == 2, err
    assert err.startswith("error: "), err
    assert "Traceback" not in err, err
    assert "Unexpected" not in err, err
    for text in says:
        assert text in err
    assert not hint or "\n  next:  " in err, f"no hint in: {err}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder that outputs go to."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def refused(cli: Cli, place: Path) -> Refused:
    """Run a command that must fail; nothing may be left where its output would go."""

    def run(command: str, *arguments: object, says: Sequence[str], hint: bool = True) -> str:
        options: tuple[object, ...] = ("--json" if command in ("evaluate", "bench") else "--out", place / "out")
        if command == "quantize" and "--calib-images" not in arguments:
            options += ("--calib-images", 8)
        code, _, err = cli(command, *arguments, *options)
        assert_error(code, err, *says, hint=hint)
        assert list(place.iterdir()) == []
        return err

    return run


@pytest.fixture(scope="session")
def digits_state() -> State:
    return dict(read_checkpoint("digits").state)


@pytest.fixture
def quantized(digits_quantized: QuantizedArtifact, tmp_path: Path) -> Path:
    """A quantized checkpoint that may be damaged."""
    return Path(shutil.copytree(digits_quantized.path, tmp_path / "quantized"))


def save(path: Path, state: State, **changes: Tensor | None) -> Path:
    """Save a state dict with some keys replaced (`__` stands for a dot), or left out (None)."""
    changed = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
    torch.save({"model": {key: value for key, value in changed.items() if value is not None}}, path)
    return path


def image_folder(root: Path, classes: int = 10, images: int = 1) -> str:
    """Write `images` 8×8 images for each class and return the data spec."""
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for number in range(images):
            Image.new("L", (8, 8), 20 * label).save(root / str(label) / f"{number}.png")
    return f"folder:{root}"


def parquet(path: Path, rows: int = 4) -> Path:
    encoded = io.BytesIO()
    Image.new("L", (8, 8)).save(encoded, "PNG")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": encoded.getvalue()}] * rows, "label": list(range(rows))}), path)
    return path


def flatten_onnx(
    path: Path,
    images: Sequence[int | str] = ("batch", 1, 2, 5),
    logits: Sequence[int | str] = ("batch", 10),
    kind: int = TensorProto.FLOAT,
    **metadata: str,
) -> Path:
    """A network of one Flatten."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("images", kind, images)],
        [helper.make_tensor_value_info("logits", kind, logits)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {PREFIX + key: value for key, value in metadata.items()})
    onnx.save(model, path)
    if metadata:
        append_seal(path)
    return path


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Replace keys of the manifest, or remove them (None), and seal it anew."""
    path = directory / "manifest.json"
    edited = {**json.loads(path.read_text()), **changes}
    write_sealed(path, {key: value for key, value in edited.items() if value is not None})


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def lock(path: Path, access: int) -> None:
    """Take all permissions away; skips where that means nothing (root)."""
    path.chmod(0o000)
    if os.access(path, access):
        pytest.skip("this user may do everything")


# --- the checkpoint file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors", "no/such/folder.pth"])
def test_missing_checkpoint(refused: Refused, tmp_path: Path, name: str) -> None:
    refused("quantize", tmp_path / name, says=("There is no such file", name))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_is_a_directory(refused: Refused, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    refused("quantize", tmp_path / f"folder{suffix}", says=("directory", f"folder{suffix}"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_checkpoint(refused: Refused, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"locked{suffix}"
    shutil.copy(find_checkpoint("digits"), path)
    lock(path, os.R_OK)
    refused("quantize", path, says=("Permission denied", path.name))


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_checkpoint_in_a_locked_folder(refused: Refused, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    shutil.copy(find_checkpoint("digits"), folder / "digits.safetensors")
    lock(folder, os.X_OK)
    try:
        refused(command, folder / "digits.safetensors", says=("Permission denied", "digits.safetensors"))
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_checkpoint(refused: Refused, tmp_path: Path, digits_state: State, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    whole = save(path, digits_state) if suffix == ".pth" else find_checkpoint("digits")
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused("quantize", path, says=("Not a readable", path.name, "cut short"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A plain text file.\n", id="text"),
        pytest.param("<!DOCTYPE html><html>Not found</html>\n", id="html"),
        pytest.param("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", id="lfs-pointer"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_text_is_no_checkpoint(refused: Refused, tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text(text)
    err = refused("quantize", path, says=("Not a readable", path.name))
    assert "run code" not in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param([1, 2, 3], "list", id="list"),
        pytest.param(torch.ones(3), "Tensor", id="tensor"),
        pytest.param({}, "dict", id="empty"),
        pytest.param({"model": {"head.weight": "text"}}, "head.weight", id="text-for-a-tensor"),
    ],
)
def test_pth_of_something_else(refused: Refused, tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    refused("quantize", tmp_path / "other.pth", says=(says, "other.pth"))


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.filterwarnings("error::UserWarning")  # one would stand before the message
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_pickle_that_runs_code(refused: Refused, tmp_path: Path, digits_state: State, command: str, kind: str) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "control")))
    assert (tmp_path / "control").exists()

    content = {"model": digits_state, "args": Touch(tmp_path / "marker")}
    if kind == "plain":
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=kind == "zip")
    refused(command, tmp_path / "evil.pth", *PLAIN, says=("wants to run code", "evil.pth", "safetensors"))
    assert not (tmp_path / "marker").exists()


def test_pickled_module(refused: Refused, tmp_path: Path) -> None:
    torch.save(read_checkpoint("digits").build(), tmp_path / "module.pth")
    refused("quantize", tmp_path / "module.pth", says=("wants to run code", "module.pth", "state_dict"))


def test_namespace_beside_the_weights_loads(cli: Cli, tmp_path: Path, digits_state: State) -> None:
    path = tmp_path / "released.pth"
    torch.save({"model": digits_state, "args": argparse.Namespace(lr=1e-3, model="tiny"), "epoch": 7}, path)
    code, out, err = cli("quantize", path, *PLAIN, "--calib-images", 8, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "12 sites from 8 images of digits" in out
    assert (tmp_path / "out" / "manifest.json").exists()


# --- what the checkpoint holds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["blocks.1.mlp.fc2.weight", "blocks.0.mlp.fc1.weight", "head.weight", "norm.weight"])
def test_missing_key(refused: Refused, tmp_path: Path, digits_state: State, key: str) -> None:
    path = save(tmp_path / "a.pth", digits_state, **{key: None})
    refused("quantize", path, *PLAIN, says=(key, "a.pth"))


def test_extra_key(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    path = save(tmp_path / "a.pth", digits_state, adapter__weight=torch.ones(2))
    refused("quantize", path, *PLAIN, says=("unexpected: adapter.weight", "a.pth"))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("head.bias", (11,)),
        ("cls_token", (128,)),
        ("head.weight", ()),
        ("pos_embed", (1, 64, 128)),
        ("pos_embed", (1, 0, 128)),
        ("patch_embed.proj.weight", (128, 1, 4, 8)),
        ("patch_embed.proj.weight", (128, 1, 0, 0)),
    ],
)
def test_misshapen_key(refused: Refused, tmp_path: Path, digits_state: State, key: str, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.pth", digits_state, **{key: torch.ones(shape)})
    refused("quantize", path, *PLAIN, says=(key, "a.pth"))


def test_many_bad_keys_are_counted(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    extra = {f"extra{i}": torch.ones(1) for i in range(20)}
    path = save(tmp_path / "a.pth", digits_state, **extra)
    err = refused("quantize", path, *PLAIN, says=("unexpected: extra0", "and 12 more"))
    assert "extra19" not in err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_no_numbers(refused: Refused, tmp_path: Path, digits_state: State, value: str) -> None:
    bad = digits_state["blocks.1.attn.qkv.weight"].clone()
    bad[3, 5] = float(value)
    path = save(tmp_path / "a.pth", digits_state, blocks__1__attn__qkv__weight=bad)
    err = refused("quantize", path, *PLAIN, says=("NaN or infinite", "blocks.1.attn.qkv.weight", "a.pth"))
    assert "blocks.0" not in err


def test_sparse_weights(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    path = save(tmp_path / "a.pth", digits_state, head__weight=digits_state["head.weight"].to_sparse())
    refused("quantize", path, *PLAIN, says=("head.weight", "a.pth"))


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"image_size": "big"}, id="image_size"),
        pytest.param({"heads": "two"}, id="heads"),
        pytest.param({"preprocessing": {"blur": 1}}, id="preprocessing"),
        pytest.param({"preprocessing": 7}, id="preprocessing-number"),
        pytest.param({"classes": 3}, id="classes"),
        pytest.param({"data": 7}, id="data"),
    ],
)
def test_wrong_metadata(refused: Refused, tmp_path: Path, digits_state: State, metadata: dict[str, Any]) -> None:
    torch.save({"model": digits_state, "illama_deploy": metadata}, tmp_path / "a.pth")
    refused("quantize", tmp_path / "a.pth", says=("a.pth", *metadata), hint=False)


@pytest.mark.parametrize("heads", [0, 3, -1])
def test_wrong_heads(refused: Refused, heads: int) -> None:
    refused("quantize", "--heads", heads, says=("heads", str(heads), "--heads"))


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
@pytest.mark.parametrize("spec", ["nonsense:x", "digits:foo", "folder:", "parquet"])
def test_unknown_data_spec(refused: Refused, command: str, spec: str) -> None:
    refused(command, "digits", "--data", spec, says=(repr(spec), "folder:PATH", "parquet:PATH", "timm:NAME"))


def test_no_such_folder(refused: Refused, tmp_path: Path) -> None:
    refused("quantize", "--data", f"folder:{tmp_path / 'gone'}", says=("no such folder", "gone"))


def test_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("quantize", "--data", f"folder:{tmp_path / 'empty'}", says=("no image", "empty"))


def test_empty_class_folders(refused: Refused, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "hollow", images=0)
    refused("quantize", "--data", spec, says=("no image", "hollow"))


def test_locked_folder(refused: Refused, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "images")
    lock(tmp_path / "images", os.R_OK)
    try:
        refused("quantize", "--data", spec, says=("Permission denied", "images"))
    finally:
        (tmp_path / "images").chmod(0o755)


def test_another_number_of_classes(refused: Refused, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "three", classes=3)
    refused("evaluate", "digits", "--data", spec, says=("3 classes", "network 10", "three"))


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_unknown_split(refused: Refused, tmp_path: Path, kind: str) -> None:
    spec = image_folder(tmp_path / "images") if kind == "folder" else kind
    refused("quantize", "--data", spec, "--split", "holdout", says=("'holdout'", "--split"))


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_broken_image(refused: Refused, tmp_path: Path, command: str, damage: str) -> None:
    spec = image_folder(tmp_path / "images")
    path = tmp_path / "images" / "3" / "0.png"
    path.write_bytes({"text": b"no image", "cut": path.read_bytes()[:50], "empty": b""}[damage])
    refused(command, "digits", "--data", spec, says=("cannot be decoded", str(path), "--skip-broken"))


def test_quantize_skips_broken_images(cli: Cli, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "images")
    path = tmp_path / "images" / "3" / "0.png"
    path.write_bytes(b"no image")
    code, out, _ = cli("quantize", "--data", spec, "--skip-broken", "--out", tmp_path / "out")
    assert code == 0
    assert "from 9 images" in out
    assert "1 broken image" in out
    assert "3/0.png" in out
    assert "on 9 of them" in out  # the figures do not count it either
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["data"]["skipped"] == ["3/0.png"]


def test_evaluate_skips_broken_images(cli: Cli, tmp_path: Path) -> None:
    spec = image_folder(tmp_path / "images")
    path = tmp_path / "images" / "3" / "0.png"
    path.write_bytes(b"no image")
    code, out, _ = cli("evaluate", "digits", "--data", spec, "--skip-broken", "--json", tmp_path / "figures.json")
    assert code == 0
    assert "1 broken image" in out
    assert str(path) in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["images"], figures["skipped"]) == (9, [str(path)])


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_all_images_broken(refused: Refused, tmp_path: Path, command: str) -> None:
    spec = image_folder(tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    refused(
        command, "digits", "--data", spec, "--skip-broken", says=("No image could be decoded", str(tmp_path / "images"))
    )


def test_missing_parquet(refused: Refused, tmp_path: Path) -> None:
    refused("quantize", "--data", f"parquet:{tmp_path / 'gone'}", says=("no such file or directory", "gone"))


@pytest.mark.parametrize("content", [b"", b"no parquet at all " * 9], ids=["empty", "garbage"])
def test_garbage_parquet(refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.parquet").write_bytes(content)
    spec = f"parquet:{tmp_path / 'bad.parquet'}"
    refused("quantize", "--data", spec, says=("Not a readable parquet file", "bad.parquet"))


def test_parquet_damaged_inside(refused: Refused, tmp_path: Path) -> None:
    path = parquet(tmp_path / "train.parquet")
    content = bytearray(path.read_bytes())
    content[8:80] = b"\xff" * 72  # the pages, not the footer
    path.write_bytes(content)
    err = refused("quantize", "--data", f"parquet:{path}", says=("train.parquet",))
    assert "Cannot write" not in err


def test_parquet_without_images(refused: Refused, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    refused(
        "quantize",
        "--data",
        f"parquet:{tmp_path / 'text.parquet'}",
        says=("text.parquet", "text (string), label (int64)"),
    )


def test_parquet_shards_that_differ(refused: Refused, tmp_path: Path) -> None:
    parquet(tmp_path / "shards" / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "shards" / "train-00001-of-00002.parquet")
    refused("quantize", "--data", f"parquet:{tmp_path / 'shards'}", says=("train-00001-of-00002.parquet",))


def test_unknown_parquet_split(refused: Refused, tmp_path: Path) -> None:
    parquet(tmp_path / "shards" / "train-00000-of-00001.parquet")
    spec = f"parquet:{tmp_path / 'shards'}"
    refused("quantize", "--data", spec, "--split", "holdout", says=("holdout", "shards", "Splits there: train"))


def test_label_outside_the_classes(refused: Refused, tmp_path: Path) -> None:
    path = parquet(tmp_path / "many.parquet", rows=12)
    refused("evaluate", "digits", "--data", f"parquet:{path}", says=("Label 10", "10 classes", "many.parquet row 10"))


def test_no_data_is_known(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    path = save(tmp_path / "a.pth", digits_state)
    refused("quantize", path, says=("Calibration needs images", "not been said", "--data"))
    refused("evaluate", path, says=("needs images", "not been said", "a.pth", "--data"))


# --- recipes and options ---------------------------------------------------------------------------------------------


#: Options of quantize and what the message says.
WRONG_OPTIONS: dict[str, tuple[str, ...]] = {
    "--bits 5": ("'5'", "--bits 8 or 4"),
    "--bits foo": ("'foo'", "--bits 8 or 4"),
    "--range median": ("'median'", "minmax, percentile, mse, entropy"),
    "--range percentile:0": ("'percentile:0'", "(0, 100]"),
    "--range percentile:most": ("'percentile:most'",),
    "--range mse:3": ("'mse:3'",),
    "--include layers.*": ("'layers.*'", "blocks.N.attn.qkv"),
    "--exclude layers.*": ("'layers.*'", "blocks.N.attn.qkv"),
    "--exclude *": ("no site", "--exclude"),
    "--recipe w8a8 --bits 8": ("recipe", "--bits"),
    "--recipe w5a5": ("w5a5", "Shipped recipes: w2a16, w3a3"),
    "--calib-images 0": ("--calib-images",),
    "--calib-batch 0": ("--calib-batch",),
    "--seed -1": ("--seed",),
    "--image-size foo": ("'foo'", "--image-size 384"),
    "--image-size 32x32x32": ("'32x32x32'", "--image-size 384"),
    "--image-size 30": ("--image-size", "patch size 4"),
    "--image-size 10000000": ("GiB", "smaller --image-size"),
    "--mean a,b": ("--mean", "'a,b'"),
    "--mean 0.1,0.2": ("2 means and 1 deviations", "--mean"),
    "--mean nan": ("mean", "nan"),
    "--std 0": ("std", "0.0"),
    "--std inf": ("std", "inf"),
    "--crop 2": ("crop", "2.0"),
    "--crop-mode middle": ("'middle'", "center, squash, border"),
    "--interpolation cubic": ("'cubic'", "bicubic"),
}


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_wrong_option(refused: Refused, options: str) -> None:
    refused("quantize", *options.split(), says=WRONG_OPTIONS[options])


@pytest.mark.parametrize("options", ["--range median", "--include layers.*", "--recipe mine.toml"])
def test_wrong_recipe_is_found_before_images_are_read(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('rounding = "up"')
    spec = image_folder(tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    refused("quantize", "--data", spec, *options.split(), says=("'up'" if "toml" in options else options.split()[1],))


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        pytest.param('rnage = "mse"', ("'rnage'", "Did you mean 'range'?"), id="unknown-key"),
        pytest.param("colour = 1", ("'colour'", "Known keys: format"), id="unknown-key-near-none"),
        pytest.param("bits is 8", ("not TOML", "line 1"), id="not-toml"),
        pytest.param("range = 5", ("'range'", "5"), id="number-for-text"),
        pytest.param('calib_images = "many"', ("'calib_images'", "'many'"), id="text-for-number"),
        pytest.param('include = "blocks*"', ("'include'", "list of strings"), id="text-for-list"),
        pytest.param("include = [1]", ("'include'", "list of strings"), id="list-of-numbers"),
        pytest.param('format = "W5A8"', ("'W5A8'", "W8A8"), id="format"),
        pytest.param('rewrites = ["fold"]', ("'fold'", "fold_norms"), id="rewrite"),
        pytest.param('rounding = "up"', ("'up'", "nearest"), id="rounding"),
        pytest.param('weight_clip = "max"', ("'max'", "minmax, mse"), id="weight-clip"),
    ],
)
def test_wrong_recipe(refused: Refused, tmp_path: Path, toml: str, says: tuple[str, ...]) -> None:
    (tmp_path / "mine.toml").write_text(toml)
    refused("quantize", "--recipe", tmp_path / "mine.toml", says=says)


@pytest.mark.parametrize("toml", ['rnage = "mse"', "range = 5", "include = [1]", "= ="])
def test_recipe_message_names_the_file(refused: Refused, tmp_path: Path, toml: str) -> None:
    (tmp_path / "mine.toml").write_text(toml)
    refused("quantize", "--recipe", tmp_path / "mine.toml", says=("mine.toml",))


def test_binary_recipe(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    refused("quantize", "--recipe", tmp_path / "mine.toml", says=("not TOML", "mine.toml"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nope", "'nope'"),
        ("--nope", "--nope"),
        ("quantize --nope", "--nope"),
        ("quantize a b", "b"),
        ("quantize --calib-images many", "--calib-images"),
        ("quantize --out", "--out"),
    ],
)
def test_wrong_usage(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*arguments.split())
    assert code == 2
    assert "Error: " in err
    assert says in err.partition("Error: ")[2]
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# --- output ----------------------------------------------------------------------------------------------------------


def run_quantize(cli: Cli, out: Path, *options: object) -> tuple[int, str]:
    code, _, err = cli("quantize", "--calib-images", 8, "--out", out, *options)
    return code, err


@pytest.fixture
def steps(digits_quantized: QuantizedArtifact) -> dict[str, tuple[object, ...]]:
    """A quick run of each command that writes, up to the name of its output."""
    return {
        "quantize": ("--calib-images", 8, "--out"),
        "export": (digits_quantized.path, "--onnx", "--no-float", "--out"),
        "check": ("digits", "--baseline", "digits", *QUICK, "--out"),
        "evaluate": ("digits", "--limit", 8, "--json"),
        "bench": ("digits", "--rounds", 10, "--json"),
    }


@pytest.mark.parametrize("name", ["file/out", "file/inner/out", "n" * 300], ids=["in-a-file", "deeper", "long-name"])
@pytest.mark.parametrize("command", ["quantize", "export", "check", "evaluate", "bench"])
def test_output_cannot_be_made(
    cli: Cli, place: Path, steps: dict[str, tuple[object, ...]], command: str, name: str
) -> None:
    (place / "file").write_text("kept")
    code, _, err = cli(command, *steps[command], place / name)
    assert_error(code, err, "Cannot write there", str(place / name))
    assert contents(place) == {"file": b"kept"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("out", ["/proc/illama", "/proc/illama/out", "/proc/self/illama"])
def test_output_where_the_system_allows_none(cli: Cli, out: str) -> None:
    assert_error(*run_quantize(cli, Path(out)), "Cannot write there", out, "--out")


def test_output_in_a_locked_folder(cli: Cli, place: Path) -> None:
    lock(place, os.W_OK)
    place.chmod(0o555)
    assert_error(*run_quantize(cli, place / "out"), "Cannot write there: Permission denied", str(place / "out"))
    assert list(place.iterdir()) == []


#: Lets writes fail beyond so many bytes of a file, as on a full disk.
LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from illama_deploy.cli import main
main()
"""


def limited(limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_quantize_onto_a_full_disk(place: Path) -> None:
    done = limited(300_000, "quantize", "--calib-images", 8, "--out", place / "out")
    assert_error(done.returncode, done.stderr, "disk is full", "limit", str(place / "out"), "--out")
    assert list(place.iterdir()) == []


def test_export_onto_a_full_disk(place: Path, digits_quantized: QuantizedArtifact) -> None:
    # The quantized file fits, the float one does not.
    done = limited(1_500_000, "export", digits_quantized.path, "--onnx", "--out", place / "out")
    assert_error(done.returncode, done.stderr, "disk is full", "limit", str(place / "out"), "--out")
    assert list(place.iterdir()) == []


def test_quantize_onto_a_full_file_system(place: Path) -> None:
    script = 'mount -t tmpfs -o size=300k none "$0" || exit 77; "$@"; c=$?; ls -A "$0" | sed "s/^/left: /"; exit $c'
    command = [sys.executable, "-m", "illama_deploy", "quantize", "--calib-images", "8", "--out", str(place / "out")]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    # In a mount namespace of its own, so that nothing stays mounted.
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(place), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 77) and "illama" not in done.stderr and "error: " not in done.stderr:
        pytest.skip(f"cannot mount: {done.stderr}")
    assert_error(done.returncode, done.stderr, "disk is full", str(place / "out"), "--out")
    assert "left: " not in done.stdout


@pytest.mark.parametrize("command", ["quantize", "export", "check"])
def test_output_that_exists_is_kept(cli: Cli, place: Path, steps: dict[str, tuple[object, ...]], command: str) -> None:
    out = place / "out"
    (out / "inner").mkdir(parents=True)
    (out / "inner" / "mine.bin").write_bytes(bytes(range(256)))
    code, _, err = cli(command, *steps[command], out)
    assert_error(code, err, "exists already", str(out), "--force")
    assert contents(place) == {"out/inner/mine.bin": bytes(range(256))}


@pytest.mark.parametrize(
    ("command", "makes"),
    [
        ("quantize", {"manifest.json", "model.safetensors"}),
        ("export", {"export.json", "model.onnx"}),
        ("check", {"report.json", *(renderer.file for renderer in RENDERERS.values())}),
    ],
)
def test_force_replaces_the_output(
    cli: Cli, place: Path, steps: dict[str, tuple[object, ...]], command: str, makes: set[str]
) -> None:
    (place / "out").mkdir()
    (place / "out" / "old.bin").write_bytes(b"old")
    code, _, err = cli(command, *steps[command], place / "out", "--force")
    assert code in ((0, 1, 3) if command == "check" else (0,)), err
    assert [path.name for path in place.iterdir()] == ["out"]
    assert set(contents(place / "out")) == makes


@pytest.mark.parametrize("command", ["quantize", "export", "check"])
def test_force_with_bad_input_keeps_the_output(cli: Cli, place: Path, command: str) -> None:
    (place / "out").mkdir()
    (place / "out" / "old.bin").write_bytes(b"old")
    arguments = {
        "quantize": ("gone.pth",),
        "export": ("gone", "--onnx"),
        "check": ("gone.onnx", "--baseline", "digits"),
    }[command]
    code, _, err = cli(command, *arguments, "--out", place / "out", "--force")
    assert_error(code, err, arguments[0], hint=False)
    assert [path.name for path in place.iterdir()] == ["out"]
    assert contents(place / "out") == {"old.bin": b"old"}


@pytest.mark.parametrize("command", ["quantize", "export", "evaluate"])
def test_output_never_replaces_the_input(
    cli: Cli, place: Path, digits_quantized: QuantizedArtifact, command: str
) -> None:
    source = place / "digits.safetensors"
    shutil.copy(find_checkpoint("digits"), source)
    made = shutil.copytree(digits_quantized.path, place / "quantized")
    arguments: tuple[object, ...] = {
        "quantize": (source, "--calib-images", 8, "--out", place, "--force"),
        "export": (made, "--onnx", "--no-float", "--out", made, "--force"),
        "evaluate": (source, "--limit", 8, "--json", source),
    }[command]
    before = contents(place)
    code, _, err = cli(command, *arguments)
    assert contents(place) == before
    assert_error(code, err, str(arguments[-1] if command == "evaluate" else arguments[-2]))


def test_force_keeps_the_current_folder(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "mine.txt").write_text("mine")
    monkeypatch.chdir(place)
    code, err = run_quantize(cli, Path(), "--force")
    assert contents(place) == {"mine.txt": b"mine"}
    assert_error(code, err, "--out")


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["", "--force"])
def test_output_that_is_a_file_is_kept(cli: Cli, place: Path, options: tuple[str, ...]) -> None:
    (place / "out").write_text("mine")
    assert_error(*run_quantize(cli, place / "out", *options), str(place / "out"))
    assert contents(place) == {"out": b"mine"}


@pytest.fixture
def running(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A quantization in the midst of its calibration."""
    work = ("--calib-images", "899", "--calib-batch", "1", "--image-size", "64", "--out", str(place / "quantized"))
    # A shell starts background jobs with Ctrl-C ignored, and the process would inherit that from pytest.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "illama_deploy", "quantize", *work],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        end = time.monotonic() + 300
        while not list(place.glob(".quantized.illama-partial-*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(1.5)  # past the imports
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(running: subprocess.Popen[str], place: Path, sent: signal.Signals) -> None:
    running.send_signal(sent)
    _, err = running.communicate(timeout=30)
    assert list(place.iterdir()) == []
    assert_error(running.returncode, err, "Interrupted", "run the same command again")


# --- export ----------------------------------------------------------------------------------------------------------


def test_export_without_a_target(refused: Refused, quantized: Path) -> None:
    refused("export", quantized, says=("No target", "--onnx"))


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_export_of_something_else(refused: Refused, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("text")
    err = refused("export", path, "--onnx", says=(path.name,))
    assert "no quantized checkpoint" in err or "no such" in err or "Not a readable checkpoint" in err


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_edited_weights(refused: Refused, quantized: Path, command: str) -> None:
    weights = quantized / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    options = ("--onnx",) if command == "export" else ()
    refused(command, quantized, *options, says=("hash differs", "model.safetensors"))


def test_missing_weights(refused: Refused, quantized: Path) -> None:
    (quantized / "model.safetensors").unlink()
    refused("export", quantized, "--onnx", says=("model.safetensors",))


@pytest.mark.parametrize("schema", ["illama-deploy/quantized/999", None])
def test_manifest_of_another_schema(refused: Refused, quantized: Path, schema: str | None) -> None:
    edit_manifest(quantized, schema=schema)
    refused("export", quantized, "--onnx", says=("schema", repr(schema), "illama-deploy/quantized/3", "manifest.json"))


@pytest.mark.parametrize("content", [b"", b'{"schema": ', b"\xff\xff"], ids=["empty", "cut", "binary"])
def test_manifest_is_not_json(refused: Refused, quantized: Path, content: bytes) -> None:
    (quantized / "manifest.json").write_bytes(content)
    refused("export", quantized, "--onnx", says=("The manifest is no", "manifest.json"))


@pytest.mark.parametrize(
    "key", ["geometry", "weights", "recipe", "sites", "preprocessing", "classes", "data", "format", "source"]
)
def test_manifest_lacks_a_key(refused: Refused, quantized: Path, key: str) -> None:
    edit_manifest(quantized, **{key: None})
    refused("export", quantized, "--onnx", says=(f"`{key}`", str(quantized)))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("geometry", {"patch_size": 0}),
        ("geometry", {"heads": 0}),
        ("geometry", {"depth": 3}),
        ("preprocessing", {"blur": 1}),
        ("recipe", {"blur": 1}),
        ("data", {"kind": 5}),
    ],
)
def test_manifest_with_a_wrong_value(refused: Refused, quantized: Path, key: str, change: dict[str, Any]) -> None:
    manifest = json.loads((quantized / "manifest.json").read_text())
    edit_manifest(quantized, **{key: {**manifest[key], **change}})
    refused("export", quantized, "--onnx", says=(str(quantized),))


@pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
def test_export_without_its_source(refused: Refused, cli: Cli, tmp_path: Path, damage: str) -> None:
    source, quantized = tmp_path / "source.pth", tmp_path / "quantized"
    state = dict(read_checkpoint("digits").state)
    torch.save({"model": state}, source)
    given = ("--data", "digits", "--mean", 0.3, "--std", 0.3, "--calib-images", 16)
    assert cli("quantize", source, *given, "--out", quantized).code == 0
    whole = source.read_bytes()
    if damage == "changed":
        torch.save({"model": {**state, "pos_embed": state["pos_embed"] + 1}}, source)
    elif damage == "cut":
        source.write_bytes(whole[:1000])
    else:
        source.unlink()
    says = {"gone": "no such file", "changed": "hash differs", "cut": "cannot be read"}[damage]
    refused("export", quantized, "--onnx", says=(says, "source.pth", "--source", "--no-float"))
    # The hint holds.
    code, _, err = cli("export", quantized, "--onnx", "--no-float", "--out", tmp_path / "out")
    assert (code, err) == (0, "")


# --- evaluate, bench, check ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_no_such_artifact(refused: Refused, command: str) -> None:
    refused(command, "gone.onnx", says=("no such artifact", "gone.onnx"))


def test_folder_is_no_artifact(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("evaluate", tmp_path / "empty", says=("neither", "empty"))


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut"])
def test_damaged_onnx(refused: Refused, tmp_path: Path, digits_export: ExportResult, damage: str) -> None:
    path = tmp_path / "bad.onnx"
    whole = digits_export.model.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"garbage " * 30, "cut": whole[: len(whole) // 2]}[damage])
    refused("evaluate", path, says=("cannot be read as ONNX", "bad.onnx"))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"images": ("batch", 10)}, id="no-images"),
        pytest.param({"images": ("batch", 1, "height", "width"), "logits": ("batch", "n")}, id="open-size"),
        pytest.param({"images": (1, 1, 2, 5), "logits": (1, 10)}, id="fixed-batch"),
        pytest.param({"kind": TensorProto.INT64}, id="integers"),
    ],
)
def test_onnx_of_another_shape(refused: Refused, tmp_path: Path, options: dict[str, Any]) -> None:
    path = flatten_onnx(tmp_path / "other.onnx", **options)
    refused("evaluate", path, "--data", "digits", says=("other.onnx",))


@pytest.mark.parametrize(
    "metadata",
    [
        {"preprocessing": "{"},
        {"preprocessing": "[]"},
        {"preprocessing": '{"size": [3, 3], "mean": [0.5], "std": [0.5]}'},
        {"classes": "5"},
    ],
    ids=str,
)
def test_onnx_with_wrong_metadata(refused: Refused, tmp_path: Path, metadata: dict[str, str]) -> None:
    path = flatten_onnx(tmp_path / "other.onnx", **metadata)
    refused("evaluate", path, "--data", "digits", says=("other.onnx",), hint=False)


def test_onnx_without_data(refused: Refused, tmp_path: Path) -> None:
    path = flatten_onnx(tmp_path / "other.onnx")
    refused("evaluate", path, says=("needs images", "not been said", "other.onnx", "--data"))


@pytest.mark.parametrize("command", ["evaluate", "bench", "check"])
@pytest.mark.parametrize("option", ["--threads", "--batch"])
def test_zero_of_something(refused: Refused, command: str, option: str) -> None:
    if (command, option) == ("check", "--batch"):
        refused("check", "digits", "--baseline", "digits", "--limit", 8, "--batch", 0, says=("one image", "--batch"))
        return
    options = ("--baseline", "digits", *QUICK) if command == "check" else ()
    says = "one thread" if option == "--threads" else "one image"
    refused(command, "digits", *options, option, 0, says=(says, option))


@pytest.mark.parametrize(
    "options",
    [("--limit", 0), ("--seconds", 0), ("--confidence", 2), ("--max-latency-ratio", 0), ("--max-drop", "nan")],
    ids=lambda options: " ".join(map(str, options)),
)
def test_check_of_nothing(refused: Refused, options: tuple[object, ...]) -> None:
    refused(
        "check",
        "digits",
        "--baseline",
        "digits",
        "--batch",
        1,
        "--limit",
        8,
        "--seconds",
        0.1,
        *options,
        says=(str(options[0]),),
    )


def test_check_against_another_class_count(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    five = {key: digits_state[key][:5] for key in ("head.weight", "head.bias")}
    baseline = save(tmp_path / "five.pth", digits_state, **five)
    refused("check", "digits", "--baseline", baseline, *PLAIN, *QUICK, says=("5 classes", "10", "five.pth", "digits"))


def test_check_of_different_preprocessing(refused: Refused, tmp_path: Path, digits_state: State) -> None:
    baseline = save(tmp_path / "other.pth", digits_state)
    err = refused(
        "check", "digits", "--baseline", baseline, *QUICK, says=("differently prepared", "other.pth", "--mean")
    )
    assert "mean=(0.3,)" in err
    assert "mean=(0.5,)" in err


def test_bench_of_different_sizes(refused: Refused, tmp_path: Path) -> None:
    other = flatten_onnx(tmp_path / "other.onnx")
    refused("bench", "digits", other, "--rounds", 10, says=("different sizes", "other.onnx"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("export", "--onnx"), ("quantized", "illama-deploy quantize")),
        (("check",), ("nothing was made here", "illama-deploy export --onnx")),
        (("check", "digits", "--data", "digits"), ("No baseline is named", "--baseline")),
        (("evaluate",), ("nothing was made here", "Name an artifact")),
        (("bench",), ("nothing was made here", "Name an artifact")),
        (("inspect",), ("nothing was made here", "Name an artifact")),
    ],
    ids=["export", "check", "check-baseline", "evaluate", "bench", "inspect"],
)
def test_step_without_the_one_before(cli: Cli, place: Path, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    code, _, err = cli(*arguments, "--workspace", place)
    assert_error(code, err, *says)
    assert list(place.iterdir()) == []


# --- properties ------------------------------------------------------------------------------------------------------

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
