"""Recipes of quantization: every wrong value is an error in words, before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from illama_deploy import RecipeError
from illama_deploy.recipe import SHIPPED, Recipe

from .conftest import Cli


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"format": "W5A5"}, "W5A5"),
        ({"format": 8}, "'format'"),
        ({"format": "W" * 10_000}, "no quantized format"),
        ({"rewrites": ["rotate_everything"]}, "rotate_everything"),
        ({"rewrites": ["fold_norms", "fold_norms"]}, "twice"),
        ({"rewrites": "fold_norms"}, "'rewrites'"),
        ({"rewrites": [["fold_norms"]]}, "'rewrites'"),
        ({"range": "percentile:nan"}, "percentile:nan"),
        ({"range": "percentile:101"}, "percentile:101"),
        ({"range": "mse:3"}, "mse:3"),
        ({"range": "widest"}, "widest"),
        ({"range": 99.9}, "'range'"),
        ({"rounding": "up"}, "'up'"),
        ({"weight_clip": "some"}, "'some'"),
        ({"rounding": "nearest", "reconstruct": 10}, "gptaq"),
        ({"reconstruct": -1}, "negative"),
        ({"reconstruct": 10**9}, "reconstruct"),
        ({"reconstruct": True}, "'reconstruct'"),
        ({"calib_images": 0}, "at least one"),
        ({"calib_images": 10**12}, "calib_images"),
        ({"calib_images": 1.5}, "'calib_images'"),
        ({"calib_images": float("nan")}, "'calib_images'"),
        ({"seed": -1}, "negative"),
        ({"seed": "0"}, "'seed'"),
        ({"attention_products": 1}, "'attention_products'"),
        ({"include": [f"*{i}*" for i in range(100_000)]}, "patterns"),
        ({"exclude": ["*a" * 1000]}, "patterns"),
        ({"overrides": {f"*{i}*": "W8A8" for i in range(5000)}}, "patterns"),
        ({"overrides": {"head": "W5A5"}}, "W5A5"),
        ({"overrides": {"head": {"head": "W8A8"}}}, "'overrides'"),
        ({"overrides": [["head"]]}, "'overrides'"),
        ({"overrides": 5}, "'overrides'"),
        ({"calib_image": 5}, "'calib_images'"),
    ],
)
def test_a_value_that_cannot_be(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_dict(values, where="mine.toml")
    assert says in str(refused.value)
    assert "mine.toml" in str(refused.value)
    assert "  next:  " in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_what_ships_is_read(name: str) -> None:
    recipe = Recipe.read(name)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_refused_before_anything_is_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('rounding = "up"\n')
    result = cli("quantize", tmp_path / "gone.pth", "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "q")
    assert result.code == 2
    assert "There is no rounding method 'up'" in result.err
    assert "mine.toml" in result.err
