"""Options and recipes that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..bad_input import (
    Refused,
    image_folder,
)
from ..conftest import Cli

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
