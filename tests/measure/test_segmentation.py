"""Classification of pixels: the head, its data, its figures, and the way from one command to the next."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_jaccard_index

import illama_deploy
from illama_deploy import DataError, Recipe, TrainRecipe, UsageError
from illama_deploy.calib import Observed
from illama_deploy.checkpoint import read_checkpoint, resample_patches, save_checkpoint
from illama_deploy.data import IGNORE, Loader, Scene, Scenes, open_data
from illama_deploy.errors import CheckpointError, RecipeError, TrainingError
from illama_deploy.formats import parse_format
from illama_deploy.measure import PixelAccuracy, PixelComparison, Sliding
from illama_deploy.measure.segmentation import predict, windows
from illama_deploy.model import Illama, IllamaConfig, UperNet
from illama_deploy.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from illama_deploy.quant import trial_product
from illama_deploy.rewrites import REWRITES, apply_rewrites, restructure
from illama_deploy.steps.train import train
from illama_deploy.tasks.overlay import class_colors, draw_classes
from illama_deploy.training import DenseImages, Processes
from illama_deploy.training.recipe import SHIPPED

from ..conftest import Cli

pytestmark = pytest.mark.slow

#: A grid of 6 × 8, so that the coarsest level has 3 × 4 cells.
CONFIG = IllamaConfig(
    dim=64, depth=4, heads=2, image_size=(24, 32), patch_size=4, channels=3, classes=5, hidden=96, head_width=8
)
IMAGES = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
NAMES = ("black", "red", "green")
#: Colours of the classes in the data made here, and of what has no class.
COLORS = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _hard_network(config: IllamaConfig = CONFIG) -> Illama:
    """Random weights; norms and BatchNorm's statistics spread, in evaluation mode."""
    torch.manual_seed(0)
    model = Illama(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(2.0 ** torch.empty_like(parameter).uniform_(-2, 2))
            elif not name.startswith("head."):
                parameter.normal_(std=1.6 / config.dim**0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


# --- the network


def test_levels_are_those_of_the_convention() -> None:
    assert IllamaConfig(192, 12, 3).levels == (3, 5, 7, 11)
    assert IllamaConfig(1024, 24, 16).levels == (7, 11, 15, 23)
    for depth in range(4, 40):
        levels = IllamaConfig(64, depth, 1).levels
        assert levels[0] >= 0
        assert levels[-1] == depth - 1
        assert sorted(set(levels)) == list(levels)


@torch.no_grad()
def test_every_image_token_is_read_and_the_class_token_is_not() -> None:
    model = _hard_network()
    assert isinstance(model.head, UperNet)
    seen: list[Tensor] = []
    for read in model.head.reads:
        read.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert model(IMAGES).shape == (2, 5, 24, 32)
    stream = list(model.stream(IMAGES))
    for x, level, norm in zip(seen, model.config.levels, model.head.norms, strict=True):
        assert torch.equal(x, norm(stream[level][:, :-1]))


@torch.no_grad()
def test_maps_have_the_strides_of_a_pyramid() -> None:
    model = _hard_network()
    assert isinstance(model.head, UperNet)
    sizes: list[torch.Size] = []
    for lateral in model.head.laterals:
        lateral.register_forward_hook(lambda module, args, out: sizes.append(out.shape[2:]))
    model(IMAGES)
    assert sizes == [(24, 32), (12, 16), (6, 8), (3, 4)]


@torch.no_grad()
def test_the_head_is_a_upernet_by_its_definition() -> None:
    """UperNet written out the long way, with torch's functions."""
    model = _hard_network()
    head = model.head
    assert isinstance(head, UperNet)
    stream = list(model.stream(IMAGES))

    def block(module: nn.Module, x: Tensor) -> Tensor:
        norm = module.norm
        y = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-5).sqrt()
        return (y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).clamp(min=0)

    def conv(module: nn.Module, x: Tensor) -> Tensor:
        return block(module, F.conv2d(x, module.conv.weight, padding=module.conv.weight.shape[-1] // 2))

    def up(module: nn.Module, x: Tensor) -> Tensor:
        return block(module, F.conv_transpose2d(x, module.conv.weight, stride=2))

    def grow(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear")

    c = [
        read(norm(stream[level][:, :-1])).transpose(1, 2).reshape(2, 8, 6, 8)
        for level, norm, read in zip(model.config.levels, head.norms, head.reads, strict=True)
    ]
    c0, c1 = up(head.laterals[0][1], up(head.laterals[0][0], c[0])), up(head.laterals[1], c[1])  # type: ignore[index]
    c2, c3 = conv(head.laterals[2], c[2]), F.max_pool2d(c[3], 2)
    pooled = [
        grow(conv(one, F.adaptive_avg_pool2d(c3, k)), c3) for one, k in zip(head.pooled, (1, 2, 3, 6), strict=True)
    ]
    p3 = conv(head.pyramid, torch.cat([c3, *pooled], 1))
    p2 = c2 + grow(p3, c2)
    p1 = c1 + grow(p2, c1)
    p0 = c0 + grow(p1, c0)
    s0, s1, s2 = (conv(one, p) for one, p in zip(head.smooths, (p0, p1, p2), strict=True))
    fused = conv(head.fuse, torch.cat([s0, grow(s1, s0), grow(s2, s0), grow(p3, s0)], 1))
    expected = F.interpolate(head.classifier(fused), (24, 32), mode="bilinear")
    torch.testing.assert_close(model(IMAGES), expected)


@pytest.mark.parametrize(
    ("change", "match"), [({"depth": 3}, "at least 4 blocks"), ({"image_size": (20, 32)}, "must be even")]
)
def test_backbones_that_do_not_fit(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(CONFIG, **change)


# --- rewrites


def _apply(model: Illama, names: list[str]) -> None:
    from illama_deploy.quant import find_sites

    formats = {s.name: parse_format("W8A8") for s in find_sites(model)}
    product = trial_product(formats, lambda histogram, _: histogram.maximum, "minmax")
    apply_rewrites(model, names, lambda m: Observed(m, lambda: [IMAGES], product))


@pytest.mark.parametrize(
    "names", [*([name] for name in REWRITES), list(Recipe().rewrites), list(REWRITES)], ids="+".join
)
@torch.no_grad()
def test_rewrites_leave_every_pixel_as_it_is(names: list[str]) -> None:
    model = _hard_network()
    rewritten, loaded = copy.deepcopy(model), copy.deepcopy(model)
    _apply(rewritten, names)
    expected, actual = model(IMAGES), rewritten(IMAGES)
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-4
    restructure(loaded, names)
    loaded.load_state_dict(rewritten.state_dict())
    assert torch.equal(loaded(IMAGES), actual)


def test_every_rewrite_that_fits_changes_the_network() -> None:
    for name in REWRITES:
        model = _hard_network()
        before = copy.deepcopy(model)
        _apply(model, [name])
        same = all(
            torch.equal(a, b) for a, b in zip(before.state_dict().values(), model.state_dict().values(), strict=True)
        )
        assert (same and str(before) == str(model)) != REWRITES[name].fits(before), name


def test_the_last_block_computes_every_token() -> None:
    for change in (partial(apply_rewrites, seed=0), restructure):
        model = _hard_network()
        change(model, ["class_token_last_block"])  # type: ignore[operator]
        assert not any(block.attn.class_query_only for block in model.blocks)
    model.blocks[-1].attn.class_query_only = True  # what the rewrite must not do here cannot go unseen
    with pytest.raises(RuntimeError):
        model(IMAGES)


# --- checkpoints


def _saved(tmp_path: Path, config: IllamaConfig = CONFIG, **about: object) -> Path:
    path = tmp_path / "model.safetensors"
    preprocessing = Preprocessing(size=config.image_size, crop=0.8, interpolation="bilinear")
    save_checkpoint(path, _hard_network(config).state_dict(), config, preprocessing, force=True, **about)  # type: ignore[arg-type]
    return path


@torch.no_grad()
def test_the_task_comes_from_the_checkpoint(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    assert read_checkpoint(path).config == CONFIG
    assert torch.equal(illama_deploy.load_checkpoint(path)(IMAGES), _hard_network()(IMAGES))
    square = replace(CONFIG, dim=128, image_size=(24, 24), hidden=0)
    torch.save({"model": Illama(square).state_dict()}, tmp_path / "bare.pth")  # without metadata, too
    assert read_checkpoint(tmp_path / "bare.pth").config == square


@pytest.mark.parametrize(
    "other", [replace(CONFIG, dim=128), replace(CONFIG, depth=3, head_width=0)], ids=["dim", "depth"]
)
def test_a_head_of_another_backbone(other: IllamaConfig, tmp_path: Path) -> None:
    head = {k: v for k, v in Illama(CONFIG).state_dict().items() if k.startswith("head.")}
    backbone = {k: v for k, v in Illama(other).state_dict().items() if not k.startswith(("head.", "norm."))}
    torch.save({**backbone, **head}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="head does not fit the backbone"):
        read_checkpoint(tmp_path / "x.pth", heads=2, image_size=(24, 32))


def test_another_size_must_be_even(tmp_path: Path) -> None:
    assert read_checkpoint(_saved(tmp_path), image_size=(32, 40)).config.grid == (8, 10)
    with pytest.raises(UsageError, match="even"):
        read_checkpoint(_saved(tmp_path), image_size=(28, 40))


def test_a_larger_patch_gives_what_the_patch_gave() -> None:
    weight, patches = torch.randn(7, 3, 4, 4), torch.randn(9, 3, 4, 4)
    enlarged = F.interpolate(patches, (12, 12), mode="bicubic", antialias=True)
    actual = torch.einsum("nchw,echw->ne", enlarged, resample_patches(weight, 12))
    torch.testing.assert_close(actual, torch.einsum("nchw,echw->ne", patches, weight), atol=1e-4, rtol=1e-4)
    assert resample_patches(weight, 4) is weight


# --- data


def _world(root: Path, *, images: int = 6, size: tuple[int, int] = (40, 60), split: str = "training") -> Path:
    """Patchwork images whose colours say their classes; a quarter of the blue pixels stands for no class."""
    rng = np.random.default_rng(len(split))
    for i in range(images):
        labels = rng.integers(0, 4, (size[0] // 10, size[1] // 10)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
        for folder, pixels, suffix in (("images", COLORS[labels], "png"), ("annotations", labels, "png")):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / split / f"{i}.{suffix}")
    (root / "classes.json").write_text(json.dumps({"classes": NAMES, "ignore_index": 3}))
    return root


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return _world(_world(tmp_path / "world"), images=3, split="validation")


def _classes_of(image_CHW: Tensor) -> Tensor:
    """Class numbers by colour, `IGNORE` where it is blue, from pixels in 0..255."""
    distance = (image_CHW.permute(1, 2, 0)[..., None, :] - torch.tensor(COLORS)).abs().sum(-1)
    nearest = distance.argmin(-1)
    return nearest.masked_fill(nearest == 3, IGNORE)


def test_layout_and_meaning_of_labels(world: Path) -> None:
    train_, held_out = (open_data(f"segmentation:{world}", role=role) for role in ("train", "evaluate"))  # type: ignore[arg-type]
    assert (len(train_), len(held_out), train_.split, held_out.split) == (6, 3, "training", "validation")
    assert train_.classes == NAMES
    for scene in Scenes(train_, Preprocessing(size=(40, 60)), classes=3).scenes():
        pixels = torch.from_numpy(np.array(scene.image)).permute(2, 0, 1).float()
        assert torch.equal(_classes_of(pixels), torch.from_numpy(scene.labels))


def test_ade20k_counts_from_one(world: Path) -> None:
    (world / "classes.json").unlink()
    source = open_data(f"segmentation:{world}", role="train")
    assert len(source.classes) == 150
    raw = np.array(Image.open(world / "annotations" / "training" / "0.png")).astype(int)
    labels = next(Scenes(source, Preprocessing(size=(40, 60)), classes=150).scenes()).labels
    assert np.array_equal(labels, np.where(raw == 0, IGNORE, raw - 1))
    lines = ["Idx\tRatio\tTrain\tVal\tName", *(f"{k}\t0.1\t1\t1\tthing {k}, stuff" for k in range(1, 151))]
    (world / "objectInfo150.txt").write_text("\n".join(lines))
    assert open_data(f"segmentation:{world}", role="train").classes[:2] == ("thing 1", "thing 2")


def test_camvid(cifar_data: str) -> None:
    camvid = Path(cifar_data.partition(":")[2]).parent / "camvid"
    source = open_data(f"segmentation:{camvid}", role="train")
    assert (len(source), len(source.classes), source.classes[3]) == (367, 11, "road")
    assert len(open_data(f"segmentation:{camvid}", role="evaluate")) == 101


def test_labels_are_cropped_as_images_are(world: Path) -> None:
    preprocessing = Preprocessing(size=(24, 32), mean=(0, 0, 0), std=(1, 1, 1), crop=0.6, interpolation="nearest")
    (batch,) = Loader(open_data(f"segmentation:{world}", role="evaluate"), preprocessing, classes=3)
    assert batch.images.shape == (3, 3, 24, 32)
    for image, labels in zip(batch.images, batch.labels, strict=True):
        assert torch.equal(_classes_of(image * 255), labels)


def test_training_changes_image_and_labels_together(world: Path) -> None:
    recipe = TrainRecipe(batch_size=6, zoom=(0.4, 2.0), flip=0.5, color_jitter=0.0)
    preprocessing = Preprocessing(size=(24, 32), mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    images = DenseImages(
        open_data(f"segmentation:{world}", role="train"), recipe, preprocessing, Processes(), classes=3
    )
    seen = []
    for epoch in range(2):
        ((batch,),) = images.epoch(epoch)
        for image, labels in zip(batch.images, batch.labels, strict=True):
            known = labels != IGNORE  # what is filled up is black, and of no class
            assert torch.equal(_classes_of(image * 255)[known], labels[known])
        seen.append(batch.labels)
    ((again,),) = images.epoch(1)
    assert torch.equal(again.labels, seen[1])
    assert not torch.equal(seen[0], seen[1])


def _break(root: Path, how: str) -> None:
    mask = root / "annotations" / "training" / "2.png"
    pixels = np.array(Image.open(mask))
    match how:
        case "value":
            pixels[3, 4] = 77
            Image.fromarray(pixels).save(mask)
        case "size":
            Image.fromarray(pixels[:-1]).save(mask)
        case "colour":
            Image.fromarray(COLORS[pixels]).save(mask)
        case "missing":
            mask.unlink()
        case "broken":
            mask.write_bytes(mask.read_bytes()[:60])
        case "empty":
            for path in (root / "images" / "training").iterdir():
                path.unlink()
        case "no split":
            (root / "images" / "training").rename(root / "images" / "other")
        case "no JSON":
            (root / "classes.json").write_text("{")
        case "one class":
            (root / "classes.json").write_text('{"classes": ["road"], "ignore_index": 3}')


@pytest.mark.parametrize(
    ("how", "match", "where"),
    [
        ("value", "label 77", "2.png"),
        ("size", "60×40 pixels and its mask 60×39", "2.png"),
        ("colour", "no image of labels", "2.png"),
        ("missing", "1 of 6 images have no mask", "2.png"),
        ("broken", "cannot be decoded", "2.png"),
        ("empty", "no image in it", "world"),
        ("no split", "no folder images/train", "world"),
        ("no JSON", "What labels mean", "classes.json"),
        ("one class", "What labels mean", "classes.json"),
    ],
)
def test_bad_data(how: str, match: str, where: str, world: Path) -> None:
    _break(world, how)
    with pytest.raises(DataError, match=match) as raised:
        for _ in Scenes(open_data(f"segmentation:{world}", role="train"), Preprocessing((40, 60)), classes=3).scenes():
            pass
    assert where in str(raised.value)


# --- figures


def _scores(rng: np.random.Generator, labels: np.ndarray, classes: int) -> Tensor:
    scores = torch.from_numpy(rng.normal(size=(classes, *labels.shape)).astype(np.float32))
    scores.scatter_add_(0, torch.from_numpy(labels.clip(0))[None], torch.full((1, *labels.shape), 1.0))
    return scores


@pytest.mark.parametrize("absent", [False, True], ids=["all classes", "a class that nothing shows"])
def test_figures_agree_with_other_implementations(absent: bool) -> None:
    rng = np.random.default_rng(0)
    accuracy, truth, guesses = PixelAccuracy(6), [], []
    for shape in ((20, 30), (17, 5), (8, 8)):
        labels = rng.integers(0, 5 if absent else 6, shape)
        labels[rng.random(shape) < 0.2] = IGNORE
        scores = _scores(rng, labels, 6)
        if absent:
            scores[5] = -100
        accuracy.update(scores, labels)
        truth.append(labels[labels != IGNORE])
        guesses.append(scores.argmax(0).numpy()[labels != IGNORE])
    y, p = np.concatenate(truth), np.concatenate(guesses)
    figures, shown = accuracy.to_dict(), range(5 if absent else 6)
    assert figures["images"] == 3
    assert figures["iou"][:5] == pytest.approx(100 * jaccard_score(y, p, average=None, labels=range(5)))
    assert (figures["iou"][5] is None) == absent
    assert figures["miou"] == pytest.approx(100 * jaccard_score(y, p, average="macro", labels=shown))
    by_torchmetrics = multiclass_jaccard_index(torch.from_numpy(p), torch.from_numpy(y), num_classes=6)
    assert figures["miou"] == pytest.approx(100 * float(by_torchmetrics), rel=1e-6)
    assert figures["pixel_accuracy"] == pytest.approx(100 * accuracy_score(y, p))
    assert figures["mean_accuracy"] == pytest.approx(100 * recall_score(y, p, average="macro", labels=shown))
    for name, interval in accuracy.intervals(0.95).items():
        assert interval.low <= interval.value == figures[name] <= interval.high


def test_scores_that_are_no_numbers_are_wrong_everywhere() -> None:
    labels = np.zeros((4, 4), np.int64)
    scores = torch.zeros(2, 4, 4)
    scores[0] = 1
    broken = scores.clone()
    broken[1, :2] = float("nan")
    accuracy, comparison = PixelAccuracy(2), PixelComparison()
    accuracy.update(broken, labels)
    comparison.update(broken, scores)
    assert accuracy.to_dict()["pixel_accuracy"] == 50
    assert accuracy.to_dict()["not_finite"] == 8
    assert accuracy.to_dict()["miou"] == 50
    assert comparison.to_dict()["agreement"] == 50


@pytest.mark.parametrize("length", [8, 9, 20, 40])
@pytest.mark.parametrize("stride", [None, 1, 5, 8])
def test_windows_cover_everything(length: int, stride: int | None) -> None:
    starts = windows(length, 8, stride)
    assert starts[0] == 0
    assert starts[-1] == length - 8
    assert all(0 < b - a <= (stride or 5) for a, b in pairwise(starts))


def test_gaps_between_windows_are_refused() -> None:
    with pytest.raises(UsageError, match="gaps"):
        windows(20, 8, 9)
    with pytest.raises(UsageError, match="leads nowhere"):
        Sliding(stride=0)
    with pytest.raises(UsageError, match="Scales"):
        Sliding(scales=(0.0,))


def _scene(size: tuple[int, int], crop: float, image: tuple[int, int] = (40, 60)) -> Scene:
    pixels = np.random.default_rng(0).integers(0, 256, (*image, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size=size, mean=(0, 0, 0), std=(1, 1, 1), crop=crop)
    return Scene("x", Image.fromarray(pixels), np.zeros(image, np.int64), preprocessing)


def test_windows_of_a_pointwise_network_give_its_map() -> None:
    """Overlap, batches, mirroring and filling up leave a function of single pixels as it is."""
    scene, calls = _scene((16, 16), 0.4), []

    def run(images: np.ndarray) -> np.ndarray:
        calls.append(images.shape)
        return 3 * images

    expected = 3 * torch.from_numpy(np.array(scene.image)).float().permute(2, 0, 1) / 255
    for stride in (None, 7, 16):
        (scores,) = predict([run], scene, Sliding(stride), 4)
        torch.testing.assert_close(scores, expected)
    assert max(shape[0] for shape in calls) == 4
    assert {shape[1:] for shape in calls} == {(3, 16, 16)}
    (flipped,) = predict([run], scene, Sliding(flip=True), 4)
    torch.testing.assert_close(flipped, expected.softmax(0))
    (whole,) = predict([run], _scene((64, 64), 1.0, (64, 20)), Sliding(), 4)  # narrower than a window once resized
    assert whole.shape == (3, 64, 20)


def test_scales_and_mirrored_images_are_averaged_as_probabilities() -> None:
    scene = _scene((16, 16), 0.4)
    model = _hard_network(replace(CONFIG, image_size=(16, 16)))

    @torch.no_grad()
    def run(images: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images)).numpy()

    parts = [predict([run], scene, Sliding(scales=(s,)), 8)[0].softmax(0) for s in (0.5, 1.0, 1.5)]
    (together,) = predict([run], scene, Sliding(scales=(0.5, 1.0, 1.5)), 8)
    torch.testing.assert_close(together, torch.stack(parts).mean(0))
    torch.testing.assert_close(together.sum(0), torch.ones(40, 60))


def test_classes_are_drawn_over_the_image_and_named() -> None:
    image = Image.fromarray(np.full((30, 120, 3), 100, np.uint8))
    classes = np.zeros((30, 120), np.int64)
    classes[:, 60:] = 2
    classes[0] = 9  # no class
    drawn = np.asarray(draw_classes(image, classes, NAMES, opacity=0.5)).astype(int)
    assert drawn.shape[1:] == (120, 3)
    assert drawn.shape[0] > 30
    colors = class_colors(3).astype(int)
    assert np.abs(drawn[10, 10] - (100 + colors[0]) / 2).max() <= 1
    assert np.abs(drawn[10, 90] - (100 + colors[2]) / 2).max() <= 1
    assert (drawn[0] == 100).all()
    assert len(np.unique(class_colors(150), axis=0)) == 150


# --- steps


def test_evaluate_and_draw(world: Path, tmp_path: Path, cli: Cli) -> None:
    config = replace(CONFIG, classes=3)
    path, data = _saved(tmp_path, config, classes=NAMES), ("--data", f"segmentation:{world}")
    outputs = ("--draw", tmp_path / "drawn", "--json", tmp_path / "e.json")
    result = cli("evaluate", path, "--reference", path, *data, *outputs)
    assert result.code == 0, result.err
    figures = json.loads((tmp_path / "e.json").read_text())
    assert set(figures["iou"]) == set(NAMES)
    assert figures["agreement"] == 100
    assert f"miou           {figures['miou']:.4f}" in result.out
    assert {p.name for p in (tmp_path / "drawn").iterdir()} == {"0.png", "1.png", "2.png"}

    model, accuracy = _hard_network(config), PixelAccuracy(3)
    for scene in Scenes(
        open_data(f"segmentation:{world}", role="evaluate"), read_checkpoint(path).preprocessing, classes=3
    ).scenes():
        with torch.no_grad():
            accuracy.update(
                predict([lambda x: model(torch.from_numpy(x)).numpy()], scene, Sliding(), 1)[0], scene.labels
            )
    assert figures["miou"] == pytest.approx(accuracy.to_dict()["miou"])
    other = illama_deploy.evaluate(path, data=data[1], stride=4, scales=(0.5, 1.0), flip=True).figures
    assert other["miou"] != figures["miou"]


def test_an_onnx_file_that_classifies_pixels(world: Path, tmp_path: Path) -> None:
    """One convolution that finds the nearest of the classes' colours, so that every label comes out."""
    colors = torch.tensor(COLORS[:3]).float() / 255
    mean, std = (torch.tensor(v) for v in (IMAGENET_MEAN, IMAGENET_STD))
    weight = (2 * colors * std).view(3, 3, 1, 1).numpy()
    bias = (2 * colors @ mean - colors.square().sum(1)).numpy()
    shape = ["batch", 3, 40, 60]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "weight", "bias"], ["y"])],
        "nearest",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    figures = illama_deploy.evaluate(path, reference=path, data=f"segmentation:{world}").figures
    assert (figures["miou"], figures["pixel_accuracy"], figures["agreement"]) == (100, 100, 100)


def test_data_and_network_of_different_tasks(world: Path, tmp_path: Path) -> None:
    path = _saved(tmp_path, replace(CONFIG, classes=10))
    with pytest.raises(DataError, match="labelled for classification"):
        illama_deploy.evaluate(path, data="digits")
    with pytest.raises(DataError, match="labelled for segmentation"):
        illama_deploy.evaluate("digits", data=f"segmentation:{world}")
    with pytest.raises(UsageError, match=r"10 classes \(segmentation\)"):
        illama_deploy.evaluate(
            path,
            reference="digits",
            preprocessing={"size": (32, 32), "mean": (0.3,), "std": (0.3,), "crop": 1.0, "interpolation": "bicubic"},
        )
    with pytest.raises(UsageError, match="`draw` is for networks that classify pixels"):
        illama_deploy.evaluate("digits", draw=tmp_path / "drawn")
    with pytest.raises(UsageError, match="`save_logits` is for networks that classify images"):
        illama_deploy.evaluate(path, save_logits=tmp_path / "x.npz")


TINY = TrainRecipe(
    model=(("head_width", 8), ("image_size", 24), ("patch_size", 4)),
    epochs=2,
    batch_size=2,
    lr=3e-3,
    warmup_epochs=0,
    schedule="poly",
    smoothing=0.0,
    zoom=(0.7, 1.2),
    crop=0.6,
    color_jitter=0.1,
    precision="float32",
)


def _classifier(tmp_path: Path) -> Path:
    config = IllamaConfig(dim=64, depth=4, heads=1, image_size=(8, 8), patch_size=2, classes=7, hidden=64)
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "c.safetensors", Illama(config).state_dict(), config, Preprocessing((8, 8)), force=True)
    return tmp_path / "c.safetensors"


def test_training_starts_from_a_classifier_and_learns(world: Path, tmp_path: Path) -> None:
    spec, out = f"segmentation:{world}", tmp_path / "run"
    result = train(replace(TINY, epochs=12, evaluate_every=12), checkpoint=_classifier(tmp_path), data=spec, out=out)
    trained = read_checkpoint(result.path)
    assert (trained.config.task, trained.config.patch_size, trained.config.grid) == ("segmentation", 4, (6, 6))
    assert (trained.classes, trained.data, trained.preprocessing.crop) == (NAMES, None, 0.6)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [record["mean_loss"] for record in records if "mean_loss" in record]
    assert losses[-1] < 0.6 * losses[0]
    assert result.figures["miou"] == pytest.approx(illama_deploy.evaluate(result.path).figures["miou"], abs=1e-6)
    assert result.figures["miou"] > 60  # guessing one class everywhere gives about 11
    assert (out / "curves.png").is_file()


def test_a_backbone_is_taken_over(world: Path, tmp_path: Path) -> None:
    start = _classifier(tmp_path)
    result = train(
        replace(TINY, epochs=1, lr=1e-30), checkpoint=start, data=f"segmentation:{world}", out=tmp_path / "run"
    )
    adapted = read_checkpoint(start, image_size=(24, 24), patch_size=4).state
    trained = read_checkpoint(result.path).state
    for key, tensor in adapted.items():
        if not key.startswith(("head.", "norm.")):
            torch.testing.assert_close(trained[key], tensor)


def test_going_on_ends_in_the_same_weights(world: Path, tmp_path: Path) -> None:
    options = {"checkpoint": _classifier(tmp_path), "data": f"segmentation:{world}"}
    whole = train(TINY, out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    with pytest.raises(TrainingError) as stopped, pytest.MonkeyPatch.context() as patch:
        from illama_deploy.training import loop

        update = loop.Trainer._update

        def stop_in_the_second_epoch(self: loop.Trainer, pieces: object, stop: bool) -> tuple[float, bool]:
            loss, _ = update(self, pieces, stop)  # type: ignore[arg-type]
            return loss, self.updates == 4

        patch.setattr(loop.Trainer, "_update", stop_in_the_second_epoch)
        train(TINY, out=tmp_path / "parts", **options)  # type: ignore[arg-type]
    assert "5 updates" in str(stopped.value)
    parts = train(TINY, out=tmp_path / "parts", resume=True, **options)  # type: ignore[arg-type]
    first, second = (read_checkpoint(result.path).state for result in (whole, parts))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("recipe", "options", "error", "match"),
    [
        (replace(TINY, cutmix=1.0), {}, RecipeError, "cannot be mixed"),
        (TINY, {"micro_batch": 1}, UsageError, "two images at a time"),
        (replace(TINY, model=(("image_size", 24), ("patch_size", 4))), {}, DataError, "labelled for segmentation"),
        (replace(TINY, model=(("head_width", 8), ("image_size", 20), ("patch_size", 4))), {}, UsageError, "even"),
        (replace(TINY, model=(("head_width", 8), ("image_size", 26), ("patch_size", 4))), {}, UsageError, "multiple"),
    ],
)
def test_runs_that_cannot_be(
    recipe: TrainRecipe, options: dict[str, int], error: type[Exception], match: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        train(recipe, checkpoint=_classifier(tmp_path), data=f"segmentation:{world}", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_segmentation_recipe_on_images_of_one_label(tmp_path: Path) -> None:
    recipe = replace(
        TINY, model=(("head_width", 8), ("image_size", 24), ("dim", 64), ("depth", 4), ("heads", 1), ("patch_size", 4))
    )
    with pytest.raises(DataError, match="labelled for classification"):
        train(recipe, data="digits", out=tmp_path / "run")


@pytest.mark.parametrize("name", ["ade20k", "camvid"])
def test_shipped_recipes(name: str) -> None:
    recipe = TrainRecipe.read(SHIPPED / f"{name}.toml")
    table = dict(recipe.model)
    config = IllamaConfig(192, 12, 3, **table)
    assert config.task == "segmentation"
    if name == "ade20k":
        assert (recipe.lr, recipe.weight_decay, recipe.schedule, config.image_size) == (6e-5, 0.01, "poly", (512, 512))
        assert recipe.epochs * (20210 // recipe.batch_size) == pytest.approx(160_000, rel=0.01)
