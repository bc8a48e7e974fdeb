"""Learning rates and masks, update by update, against the authors' code and logs; no scheduler of timm's is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from illama_deploy import TrainRecipe
from illama_deploy.errors import RecipeError
from illama_deploy.steps.train import train
from illama_deploy.training import RunOptions
from illama_deploy.training.recipe import SHIPPED

from ..conftest import Cli

#: Images of ImageNet-1K, and of the 21K that the authors' logs fit.
IMAGES = {"1k": 1_281_167, "21k": 11_060_223}


class Authors(NamedTuple):
    """A training of the authors': options of its script, and lines of its log, {epoch: (mean lr, mean mask)}."""

    images: str
    batch: int
    epochs: int
    lr: float
    warmup: int
    mask: str
    cutoff: int
    log: dict[int, tuple[float, float]]


AUTHORS = {
    "tiny": Authors(
        "1k",
        4096,
        300,
        4e-3,
        5,
        "constant",
        50,
        {
            0: (0.0003989737010904423, 1.0),
            49: (0.003779651625448557, 1.0),
            50: (0.0037698337174944005, 0.0),
            299: (1.0379759434612073e-06, 0.0),
        },
    ),
    "small": Authors(
        "1k",
        4096,
        300,
        4e-3,
        5,
        "linear",
        50,
        {
            0: (0.0003989737010904423, 0.9900314122700176),
            24: (0.003957038701434948, 0.5100006410667346),
            49: (0.003779651625448557, 0.009968587729982704),
            50: (0.0037698337174944005, 0.0),
        },
    ),
    "base": Authors(
        "1k",
        4096,
        300,
        4e-3,
        50,
        "linear",
        25,
        {
            0: (3.987435091993077e-05, 0.9800615463520972),
            12: (0.0009999358933264954, 0.5000000000000003),
            49: (0.003960125649080073, 0.0),
            50: (0.003999947628414735, 0.0),
            299: (1.0528775856391834e-06, 0.0),
        },
    ),
    "in21k-base": Authors(
        "21k",
        4096,
        90,
        1e-3,
        5,
        "constant",
        30,
        {
            0: (9.997036817541856e-05, 1.0),
            29: (0.0008088156117982594, 1.0),
            30: (0.0007940847884122452, 0.0),
            89: (1.1137778438795923e-06, 0.0),
        },
    ),
    "in21k-large": Authors(
        "21k",
        4096,
        90,
        1e-3,
        5,
        "constant",
        30,
        {
            0: (9.997036817541856e-05, 1.0),
            29: (0.0008088156117982594, 1.0),
            30: (0.0007940847884122452, 0.0),
            89: (1.1137778438795923e-06, 0.0),
        },
    ),
    "finetune-base-in1k-384": Authors(
        "1k", 512, 30, 8e-5, 0, "none", 0, {0: (7.992788848282348e-05, 0.0), 29: (1.0721980020418422e-06, 0.0)}
    ),
    "finetune-base-in21k-224": Authors(
        "1k", 512, 30, 8e-5, 0, "none", 0, {0: (7.992788848282348e-05, 0.0), 29: (1.0721980020418422e-06, 0.0)}
    ),
    "finetune-base-in21k-384": Authors(
        "1k", 512, 30, 1.1e-4, 0, "none", 0, {0: (0.00010990050436237771, 0.0), 29: (1.0996149648425372e-06, 0.0)}
    ),
    "finetune-large-in21k-224": Authors(
        "1k", 512, 30, 6e-5, 0, "none", 0, {0: (5.99461445631214e-05, 0.0), 29: (1.053920026841383e-06, 0.0)}
    ),
    "finetune-large-in21k-384": Authors(
        "1k", 512, 30, 3.5e-5, 0, "none", 0, {0: (3.496896466349359e-05, 0.0), 29: (1.0310725578407872e-06, 0.0)}
    ),
}


def learning_rates(of: Authors, steps: int) -> np.ndarray:
    """Their `cosine_scheduler`: both ends of the warm-up count, the cosine has what is left for its length."""
    warmup = of.warmup * steps
    left = np.arange(of.epochs * steps - warmup)
    cosine = 1e-6 + 0.5 * (of.lr - 1e-6) * (1 + np.cos(np.pi * left / len(left)))
    return np.concatenate((np.linspace(0, of.lr, warmup), cosine))


def masks(of: Authors, steps: int) -> np.ndarray:
    """Their `mask_scheduler`."""
    span = of.cutoff * steps
    early = np.linspace(1, 0, span) if of.mask == "linear" else np.ones(span)
    return np.concatenate((early, np.zeros(of.epochs * steps - span)))


@pytest.mark.parametrize("name", AUTHORS)
def test_every_update_is_the_authors(name: str) -> None:
    of, recipe = AUTHORS[name], TrainRecipe.read(name)
    steps = IMAGES[of.images] // of.batch
    assert (recipe.batch_size, recipe.epochs) == (of.batch, of.epochs)
    lr = np.array([recipe.lr_at(update, steps) for update in range(of.epochs * steps)])
    mask = np.array([recipe.mask_at(update, steps) for update in range(of.epochs * steps)])
    assert np.abs(lr - learning_rates(of, steps)).max() < 1e-12
    assert np.abs(mask - masks(of, steps)).max() < 1e-12
    for epoch, logged in of.log.items():
        inside = slice(epoch * steps, (epoch + 1) * steps)
        assert (lr[inside].mean(), mask[inside].mean()) == pytest.approx(logged, rel=0, abs=1e-14)


def test_no_recipe_is_left_out() -> None:
    finetunings = {path.stem for path in SHIPPED.glob("finetune-*.toml")}
    assert finetunings == {name for name in AUTHORS if name.startswith("finetune")}


RATES = {  # reference: lr, drop path, size
    "finetune-base-in1k-384": (8e-5, 0.8, 384),
    "finetune-base-in21k-224": (8e-5, 0.2, 224),
    "finetune-base-in21k-384": (1.1e-4, 0.2, 384),
    "finetune-large-in21k-224": (6e-5, 0.3, 224),
    "finetune-large-in21k-384": (3.5e-5, 0.3, 384),
}


@pytest.mark.parametrize("name", RATES)
def test_fine_tuning_is_the_logs(name: str) -> None:
    recipe, (lr, drop_path, size) = TrainRecipe.read(name), RATES[name]
    assert (recipe.lr, recipe.drop_path, dict(recipe.model)["image_size"]) == (lr, drop_path, (size, size))
    assert (recipe.weight_decay, recipe.mixup, recipe.cutmix, recipe.warmup_epochs) == (1e-8, 0, 0, 0)
    assert dict(recipe.model)["dim"] == (768 if "base" in name else 1024)


#: Seven updates an epoch of a network that takes milliseconds.
TINY = TrainRecipe(
    model=(("dim", 32), ("depth", 1), ("heads", 1), ("image_size", 16), ("patch_size", 8), ("channels", 1)),
    mean=(0.3,),
    std=(0.3,),
    epochs=3,
    batch_size=128,
    lr=2e-3,
    warmup_epochs=0.5,
    soft_mask="linear",
    soft_mask_epochs=2,
    precision="float32",
)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_run_sets_what_the_formulae_say(tmp_path: Path, ema: float) -> None:
    """As logged, and as the optimizer and the network had it; the held-out images see the last update's mask."""
    train(replace(TINY, ema=ema), data="digits", out=tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    updates = [record for record in records if "loss" in record]
    warmup = np.linspace(0, 2e-3, 4)  # half of seven, rounded to the even
    left = np.arange(17)
    wanted = np.concatenate((warmup, 1e-6 + 0.5 * (2e-3 - 1e-6) * (1 + np.cos(np.pi * left / 17))))
    assert [record["lr"] for record in updates] == pytest.approx(wanted, rel=0, abs=1e-15)
    linear = np.concatenate((np.linspace(1, 0, 14), np.zeros(7)))
    assert [record["mask"] for record in updates] == pytest.approx(linear, rel=0, abs=1e-15)
    ends = [record["mask"] for record in records if "top1" in record]
    assert ends == pytest.approx(linear[6::7], rel=0, abs=1e-15)


def test_poly_is_linear_after_the_warmup() -> None:
    recipe = TrainRecipe.read("ade20k")
    lr = np.array([recipe.lr_at(update, 1263) for update in range(127 * 1263)])
    warmup = round(1.2 * 1263)
    wanted = np.concatenate((np.linspace(6e-11, 6e-5, warmup), np.linspace(6e-5, 0, 127 * 1263 - warmup + 1)[:-1]))
    assert np.abs(lr - wanted).max() < 1e-15


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("epochs", [1, 10])
def test_fewer_epochs_shorten_what_would_not_end(path: Path, epochs: int) -> None:
    recipe, said = TrainRecipe.read(path.stem), []
    short = RunOptions(epochs=epochs, say=said.append).resolve(recipe)
    assert short.epochs == epochs
    for key in ("warmup_epochs", "soft_mask_epochs"):
        was, now = getattr(recipe, key), getattr(short, key)
        if was and was >= epochs:
            assert now == pytest.approx(was / recipe.epochs * epochs)
            assert [line for line in said if line.startswith(f"{key} is {was:g} of {recipe.epochs} epochs")]
        else:
            assert now == was
            assert not [line for line in said if line.startswith(key)]
    for steps in (1, 2, 7, 1000):
        assert short.mask_at(epochs * steps - 1, steps) == 0
        assert all(0 <= short.lr_at(update, steps) <= short.lr * (1 + 1e-12) for update in range(epochs * steps))


def test_one_process_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    said: list[str] = []
    RunOptions(epochs=1, say=said.append).resolve("tiny")
    assert said == []


def test_a_recipe_that_contradicts_itself_stays_an_error() -> None:
    with pytest.raises(RecipeError, match="warmup_epochs is 5 and there are 5 epochs"):
        TrainRecipe(epochs=5)


@pytest.mark.slow
def test_one_epoch_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    options = ("--data", "digits", "--epochs", 1, "--batch-size", 256, "--out", tmp_path / "run")
    code, out, err = cli("train", "--recipe", "digits", *options)
    assert code == 0, err
    assert "soft_mask_epochs is 18 of 60 epochs, and the run has 1: now 0.3." in " ".join((out + err).split())
