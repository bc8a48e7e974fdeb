"""`train` and `qat` on the command line: what they say, and what bad input gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from PIL import Image

from illama_deploy.checkpoint import read_checkpoint

from ..bad_input import assert_error, limited
from ..conftest import Cli

pytestmark = pytest.mark.slow

#: Seven updates an epoch of a network that takes milliseconds.
RECIPE = """
data = "digits"
epochs = 2
batch_size = 128
lr = 2e-3
warmup_epochs = 1
flip = 0.0
mean = [0.3]
std = [0.3]

[model]
dim = 32
depth = 2
heads = 1
image_size = 16
patch_size = 4
channels = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[[int], str]:
    """Data of so many classes, eight images each in both splits."""

    def make(classes: int) -> str:
        for split in ("train", "test"):
            for label in range(classes):
                (tmp_path / "data" / split / f"class{label}").mkdir(parents=True)
                for number in range(8):
                    image = Image.new("L", (16, 16), 20 * label + number)
                    image.save(tmp_path / "data" / split / f"class{label}" / f"{number}.png")
        return f"folder:{tmp_path / 'data'}"

    return make


def test_train_says_what_it_does_and_goes_on(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    code, out, err = cli("train", "--recipe", recipe, "--out", tmp_path / "run")
    assert code == 0, err
    assert "epoch 2 of 2: loss" in out + err
    assert str(tmp_path / "run" / "model.safetensors") in out
    # A run that is done has nothing left to do.
    code, _, err = cli("train", "--recipe", recipe, "--out", tmp_path / "run", "--resume")
    assert code == 0, err
    code, _, err = cli("train", "--recipe", recipe, "--out", tmp_path / "run")
    assert_error(code, err, "a run already", "--resume")


def test_unknown_key_of_a_recipe(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("epochs = 2", "epoch = 2", 1))
    code, _, err = cli("train", "--recipe", recipe, "--out", tmp_path / "run")
    assert_error(code, err, "unknown key 'epoch'", "Did you mean 'epochs'?", str(recipe))
    assert not (tmp_path / "run").exists()


def test_unknown_recipe(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("train", "--recipe", "tinny", "--out", tmp_path / "run")
    assert_error(code, err, "Cannot read the recipe", "tiny")


def test_data_of_other_classes(cli: Cli, folder_of: Callable[[int], str], tmp_path: Path) -> None:
    data = folder_of(3)
    options = ("--data", data, "--batch-size", 8, "--epochs", 1, "--out", tmp_path / "run")
    recipe = tmp_path / "plain.toml"
    recipe.write_text("flip = 0.0\nwarmup_epochs = 0\n")
    code, _, err = cli("train", "--recipe", recipe, "--checkpoint", "digits", *options)
    assert_error(code, err, "The data has 3 classes and the checkpoint 10", "--new-head")
    code, _, err = cli("qat", "digits", "--recipe", recipe, *options)
    assert_error(code, err, "The data has 3 classes and the network 10", data)
    assert not (tmp_path / "run").exists()  # seen before anything is quantized


def test_fewer_images_than_a_batch(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    code, _, err = cli("train", "--recipe", recipe, "--batch-size", 1000, "--out", tmp_path / "run")
    assert_error(code, err, "899 images and a batch takes 1000", "--batch-size")


def test_one_class_only(cli: Cli, recipe: Path, folder_of: Callable[[int], str], tmp_path: Path) -> None:
    data = folder_of(1)
    code, _, err = cli("train", "--recipe", recipe, "--data", data, "--batch-size", 8, "--out", tmp_path / "run")
    assert_error(code, err, "one class only", data)


def test_resume_of_another_recipes_run(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    run = ("train", "--recipe", recipe, "--out", tmp_path / "run")
    assert cli(*run).code == 0
    code, _, err = cli(*run, "--resume", "--lr", 1e-3, "--epochs", 3)
    assert_error(code, err, "recipe.lr: 0.002 there, 0.001 now", "recipe.epochs: 2 there, 3 now", "--force")
    assert cli(*run, "--resume", "--lr", 1e-3, "--epochs", 3, "--force").code == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "top1" in record] == [1, 2, 3]


def test_state_that_is_cut_short(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    run = ("train", "--recipe", recipe, "--out", tmp_path / "run")
    assert cli(*run).code == 0
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    code, _, err = cli(*run, "--resume")
    assert_error(code, err, "state cannot be read", str(state), "--force")


#: A worker process is killed by the system, as when memory runs out, once a few updates are done.
FATAL = """
import os, signal, sys
from pathlib import Path
from torch.utils.data import get_worker_info
from illama_deploy.cli import main
from illama_deploy.training import TimmImages

log, item = Path(sys.argv.pop(1)), TimmImages.item

def fatal(self, *arguments):
    if get_worker_info() is not None and log.stat().st_size > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return item(self, *arguments)

TimmImages.item = fatal
main()
"""


def test_worker_that_dies(recipe: Path, tmp_path: Path) -> None:
    """In processes of their own: workers are forks, and this process has the threads of every runtime."""
    recipe.write_text('pipeline = "timm"\nauto_augment = ""\ncolor_jitter = 0.0\n' + RECIPE)

    def train(name: str, *more: str, start: Sequence[str] = ("-m", "illama_deploy")) -> tuple[int, str]:
        command = [sys.executable, *start, "train", "--recipe", str(recipe), "--out", str(tmp_path / name), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    fatal = ("-c", FATAL, str(tmp_path / "run" / "log.jsonl"))
    code, err = train("run", "--workers", "1", start=fatal)
    assert_error(code, err, "A worker process died", "--workers", "--resume")
    code, err = train("run", "--workers", "2", "--resume")
    assert code == 0, err
    assert train("whole")[0] == 0  # without workers
    one, other = (tmp_path / name / "model.safetensors" for name in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_disk_that_fills_up(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    # The state before the first update fits, one with the optimizer's moments does not.
    run = ("train", "--recipe", recipe, "--out", tmp_path / "run")
    done = limited(500_000, *run)
    state = tmp_path / "run" / "state.pt"
    assert_error(done.returncode, done.stderr, "The state before is intact", str(state), "--resume")
    assert torch.load(state, weights_only=True)["position"]["updates"] == 0
    assert sorted(path.name for path in state.parent.iterdir()) == ["log.jsonl", "state.pt"]
    assert cli(*run, "--resume").code == 0


def test_weights_selected_from_a_larger_network(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        RECIPE.replace("lr = 2e-3", "lr = 1e-6")
        .replace("epochs = 2", "epochs = 1")
        .replace("warmup_epochs = 1", "warmup_epochs = 0")
    )
    code, _, err = cli("train", "--recipe", recipe, "--select-from", "digits", "--out", tmp_path / "run")
    assert code == 0, err
    small, large = (read_checkpoint(name).state for name in (tmp_path / "run" / "model.safetensors", "digits"))
    every_fourth = large["blocks.1.mlp.fc2.weight"][::4]
    torch.testing.assert_close(small["blocks.1.mlp.fc2.weight"][:, 0], every_fourth[:, 0], rtol=0, atol=1e-4)
    out = ("--out", tmp_path / "other")
    code, _, err = cli("train", "--recipe", recipe, "--select-from", "digits", "--checkpoint", "digits", *out)
    assert_error(code, err, "--select-from", "--checkpoint")
    recipe.write_text(RECIPE.replace("dim = 32", "dim = 256").replace("heads = 1", "heads = 4"))
    code, _, err = cli("train", "--recipe", recipe, "--select-from", "digits", *out)
    assert_error(code, err, "larger network")
    assert not (tmp_path / "other").exists()


def test_options_that_do_not_go_together(cli: Cli, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    assert_error(*cli("qat", "digits", "--activations", 8, *out)[::2], "--activations needs --weights")
    code, _, err = cli("qat", "digits", "--weights", 4, "--format", "W4A8", *out)
    assert_error(code, err, "--weights", "--format")
    code, _, err = cli("train", "--recipe", "digits", "--micro-batch", 48, *out)
    assert_error(code, err, "does not split", "--micro-batch")
    assert not (tmp_path / "run").exists()


def test_compiling_without_a_compiler(cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch("cpp.cxx", (None, str(tmp_path / "none"))):
        result = cli("train", "--recipe", recipe, "--out", tmp_path / "run", "--compile")
    assert result.code == 2
    assert "leave out --compile" in " ".join(result.err.split())
