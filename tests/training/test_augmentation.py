"""What timm and torchvision do to training images, and what is said where it fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from illama_deploy import TrainRecipe
from illama_deploy.data import Loader, open_data
from illama_deploy.errors import DataError, RecipeError
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.steps.train import train
from illama_deploy.training import DenseImages, Processes, TensorImages, TimmImages, seed_everything
from illama_deploy.training import augmentation as augmentation_module
from illama_deploy.training.augmentation import augmentation
from illama_deploy.training.recipe import SHIPPED

from ..bad_input import assert_error

MODEL = (("dim", 32), ("depth", 1), ("heads", 1), ("image_size", 16), ("patch_size", 8))
RECIPE = TrainRecipe(model=MODEL, epochs=1, batch_size=4, warmup_epochs=0.0, pipeline="timm", precision="float32")


def pictures(root: Path, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> str:
    """Two classes of eight images, in a training and a test split."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(8):
                shape = (size[1], size[0], len(mode))
                pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8).squeeze(-1)
                Image.fromarray(pixels.numpy(), mode).save(folder / f"{number}.png")
    return f"folder:{root}"


@pytest.fixture
def black(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry each time that no bit is to be kept."""
    seen: list[int] = []
    own = augmentation_module._posterize

    def watched(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
        if bits_to_keep <= 0:
            seen.append(bits_to_keep)
        return own(image, bits_to_keep, **options)

    monkeypatch.setattr(augmentation_module, "_posterize", watched)
    return seen


@pytest.mark.parametrize("name", ["rand-m9-mstd0.5-inc1", "augmix-m9-mstd0.5", "v0r-mstd5", "rand-m15-mmax50-n4-inc1"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_posterize_may_keep_no_bit(name: str, mode: str, black: list[int]) -> None:
    preprocessing = Preprocessing(size=(8, 8), mean=(0.5,) * len(mode), std=(0.5,) * len(mode))
    change, image = augmentation(replace(RECIPE, auto_augment=name), preprocessing), Image.new(mode, (8, 8), 128)
    for draw in range(3000):  # once in 700, with the default
        seed_everything("test", draw)
        assert change(image).shape == (len(mode), 8, 8)
        if black:
            break
    assert black


def test_no_bit_is_black() -> None:
    for mode in ("L", "RGB"):
        assert set(augmentation_module._posterize(Image.new(mode, (4, 4), "white"), 0).tobytes()) == {0}
        kept = augmentation_module._posterize(Image.new(mode, (4, 4), "white"), 3)
        assert set(kept.tobytes()) == {0b11100000}


def augmented() -> dict[str, Path]:
    """Shipped recipes by what timm is asked to do; those that ask for the same once."""
    found = {}
    for path in sorted(SHIPPED.glob("*.toml")):
        recipe = TrainRecipe.read(path.stem)
        table = dict(recipe.model)
        channels = table.get("channels", 3)
        preprocessing = Preprocessing((32, 32), mean=(0.5,) * channels, std=(0.5,) * channels)
        found.setdefault(str(augmentation(recipe, preprocessing)) + str(channels), path)
    return {path.stem: path for path in found.values()}


@pytest.mark.parametrize("path", augmented().values(), ids=augmented())
def test_shipped_augmentation(path: Path) -> None:
    """50,000 draws of each ran once; a few hundred here, at a size that takes no time."""
    recipe = TrainRecipe.read(path.stem)
    channels = dict(recipe.model).get("channels", 3)
    preprocessing = Preprocessing((32, 32), mean=(0.5,) * channels, std=(0.5,) * channels)
    change = augmentation(recipe, preprocessing)
    pixels = torch.randint(256, (40, 48, channels), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    image = Image.fromarray(pixels.squeeze(-1).numpy(), preprocessing.mode)
    for draw in range(150):
        seed_everything("shipped", draw)
        x = change(image)
        assert x.shape == (channels, 32, 32)
        assert bool(torch.isfinite(x).all())


def test_run_over_a_draw_of_no_bit_and_resumed(tmp_path: Path, black: list[int]) -> None:
    data = pictures(tmp_path / "data")
    change = augmentation(RECIPE, Preprocessing((16, 16)))
    image = Image.open(tmp_path / "data" / "train" / "class0" / "0.png")

    def asks(seed: int) -> bool:
        seed_everything(seed, "image", 0, 0)
        change(image)
        return bool(black)

    recipe = replace(RECIPE, seed=next(seed for seed in range(10_000) if asks(seed)))
    black.clear()
    train(recipe, data=data, out=tmp_path / "run")
    assert black
    train(recipe, data=data, out=tmp_path / "run", resume=True)


def test_failing_augmentation_is_no_broken_image(tmp_path: Path) -> None:
    """timm's operations take no transparency: the images are whole, and what was done is kept."""
    data = pictures(tmp_path / "data", "RGBA")
    four = (0.5,) * 4
    recipe = replace(RECIPE, model=(*MODEL, ("channels", 4)), mean=four, std=four, auto_augment="rand-m9-n8-p1")
    with pytest.raises(RecipeError) as raised:
        train(recipe, data=data, out=tmp_path / "run")
    text = str(raised.value)
    assert "augmentation failed on an image that decodes" in text
    assert ".png, RGBA, 16 × 16 px" in text
    assert "auto_augment" in text
    plain = replace(recipe, auto_augment="")
    result = train(plain, data=data, out=tmp_path / "run", resume=True, force=True)
    assert result.path.is_file()


@pytest.mark.slow
def test_failing_augmentation_in_a_worker(tmp_path: Path) -> None:
    """In a process of its own: workers are forks."""
    data, recipe = pictures(tmp_path / "data", "RGBA"), tmp_path / "four.toml"
    recipe.write_text(
        'epochs = 1\nbatch_size = 4\nwarmup_epochs = 0\npipeline = "timm"\nauto_augment = "rand-m9-n8-p1"\n'
        "mean = [0.5, 0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5, 0.5]\n"
        "[model]\ndim = 32\ndepth = 1\nheads = 1\nimage_size = 16\npatch_size = 8\nchannels = 4\n"
    )
    command = [sys.executable, "-m", "illama_deploy", "train", "--recipe", recipe, "--data", data, "--workers", "1",
               "--out", tmp_path / "run"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert_error(done.returncode, done.stderr, "augmentation failed on an image that decodes", "auto_augment")


def test_failing_augmentation_of_scenes(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        for folder, mode in (("images", "RGB"), ("annotations", "L")):
            (tmp_path / folder / split).mkdir(parents=True)
            for number in range(4):
                Image.new(mode, (16, 16), 1).save(tmp_path / folder / split / f"{number}.png")
    source = open_data(f"segmentation:{tmp_path}", role="train")
    images = DenseImages(source, RECIPE, Preprocessing((16, 16)), Processes(), classes=len(source.classes))
    next(images.epoch(0))
    images.change.transforms.append(torch.linalg.inv)  # of windows that are no invertible matrices
    with pytest.raises(RecipeError, match="augmentation failed on an image that decodes"):
        next(images.epoch(0))


@pytest.mark.parametrize("skip_broken", [False, True])
def test_image_that_cannot_be_resized_is_not_broken(tmp_path: Path, skip_broken: bool) -> None:
    """A strip of 1 × 100 pixels has no height left where all of it is to fit into 16."""
    source = open_data(pictures(tmp_path / "data", size=(100, 1)), role="evaluate")
    preprocessing = Preprocessing((16, 16), crop_mode="border")
    loader = Loader(source, preprocessing, classes=2, skip_broken=skip_broken)
    with pytest.raises(DataError, match=r"decoded \(100 × 1 px\), but not resized"):
        next(iter(loader))
    assert loader.skipped == []
    with pytest.raises(DataError, match="but not resized"):
        TensorImages(source, RECIPE, preprocessing, Processes(), classes=2)


@pytest.mark.parametrize("kind", [TimmImages, TensorImages])
def test_broken_image_is_called_one(tmp_path: Path, kind: type[TimmImages | TensorImages]) -> None:
    data = pictures(tmp_path / "data")
    for path in (tmp_path / "data" / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-200])
    source = open_data(data, role="train")
    with pytest.raises(DataError, match=r"cannot be decoded"):
        next(kind(source, RECIPE, Preprocessing((16, 16)), Processes(), classes=2).epoch(0))
