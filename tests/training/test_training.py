"""Training: the loop, what it goes on from, and what quantized networks learn."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import illama_deploy
from illama_deploy import Recipe, TrainRecipe, load_checkpoint
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.data import open_data
from illama_deploy.errors import ArtifactError, RecipeError, TrainingError, UsageError
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.quant import load_quantized
from illama_deploy.steps.qat import qat
from illama_deploy.steps.quantize import quantize as quantize_step
from illama_deploy.steps.train import train
from illama_deploy.training import Images, Processes, RunOptions, TensorImages, TimmImages, Trainer
from illama_deploy.training import processes as processes_module
from illama_deploy.training.recipe import SHIPPED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

#: Seven updates an epoch of a network that takes milliseconds.
TINY = TrainRecipe(
    model=(("dim", 32), ("depth", 2), ("heads", 1), ("image_size", 16), ("patch_size", 4), ("channels", 1)),
    mean=(0.3,),
    std=(0.3,),
    epochs=3,
    batch_size=128,
    lr=2e-3,
    warmup_epochs=1,
    mixup=0.2,
    cutmix=1.0,
    drop_path=0.2,
    ema=0.9,
    soft_mask="linear",
    soft_mask_epochs=2,
    flip=0.0,
    rotate=10,
    shift=0.1,
    precision="bfloat16",
)
QUIET = replace(TINY, mixup=0.0, cutmix=0.0, drop_path=0.0, ema=0.0, precision="float32")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums come out the same to the bit only with as many threads; of the module, so that its fixtures have it too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread_again(one_thread: None) -> Iterator[None]:
    """An evaluation leaves torch at as many threads as it took; reset after it, before fixtures of the next test."""
    yield
    torch.set_num_threads(1)


def weights(path: Path) -> dict[str, Tensor]:
    return dict(read_checkpoint(path).state)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def losses(directory: Path) -> list[float]:
    records = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipe_opens_with_its_command(path: Path) -> None:
    recipe, (command, result) = TrainRecipe.read(path.stem), path.read_text().splitlines()[:2]
    assert f"--recipe {path.stem} " in f"{command} " or (path.stem.startswith("qat") and " qat " in command)
    assert result.startswith("# ")
    table = recipe.to_dict()
    assert TrainRecipe(**{**table, "model": tuple(table["model"].items())}) == recipe


def test_recipe_is_the_papers() -> None:
    tiny, base = TrainRecipe.read("tiny"), TrainRecipe.read("base")
    assert (tiny.lr, tiny.batch_size, tiny.epochs, tiny.weight_decay, tiny.ema, tiny.clip_grad) == (
        4e-3, 4096, 300, 0.05, 0.0, 0.0,
    )  # fmt: skip
    assert (tiny.auto_augment, tiny.color_jitter, tiny.erasing, tiny.smoothing) == (
        "rand-m9-mstd0.5-inc1", 0.4, 0.25, 0.1,
    )  # fmt: skip
    assert (base.mixup, base.cutmix, base.drop_path, base.warmup_epochs) == (0.95, 1.0, 0.4, 50)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU decides")
@pytest.mark.parametrize(
    ("features", "fast"),
    [(["avx512_bf16"], "bfloat16"), (["avx512f", "amx_bf16"], "bfloat16"), (["avx512_vnni"], "float32")],
)
def test_auto_is_the_precision_that_is_fast_here(
    features: list[str], fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "cpu_features", lambda: features)
    assert RunOptions().resolve("cifar10-scratch").precision == fast
    assert RunOptions().resolve(QUIET).precision == "float32"
    assert RunOptions().resolve(TINY).precision == "bfloat16"


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_taken_again_without_page_faults() -> None:
    code = """
import resource, torch
from illama_deploy.training.processes import keep_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def take():
    before = faults()
    torch.zeros(2**24)  # 64 MiB: 16,384 pages
    return faults() - before
keep_memory()
print(min(sum(take() for _ in range(4)) for _ in range(4)))  # the heap finds its size in the first rounds
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pipeline": "fast"}, "'fast'"),
        ({"epochs": 0}, "'epochs'"),
        ({"lr": float("nan")}, "'lr'"),
        ({"mixup": 1.5}, "'mixup'"),
        ({"warmup_epochs": 300}, "warmup_epochs"),
        ({"soft_mask_epochs": 400}, "soft_mask_epochs"),
        ({"mean": (0.5,)}, "'mean'"),
        ({"model": (("depht", 2),)}, "'depth'"),
        ({"zoom": 2}, "'zoom'"),
        ({"lr": True}, "'lr'"),
    ],
    ids=str,
)
def test_wrong_recipe_value(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        TrainRecipe(**change)
    assert says in str(raised.value)


# --- images ----------------------------------------------------------------------------------------------------------


def images(
    kind: type[Images] = TensorImages, recipe: TrainRecipe = QUIET, processes: Processes | None = None, **options: Any
) -> Any:
    source, preprocessing = open_data("digits", role="train"), Preprocessing(size=(16, 16), mean=(0.3,), std=(0.3,))
    return kind(source, recipe, preprocessing, processes or Processes(), classes=10, **options)


@pytest.mark.parametrize("kind", [TensorImages, TimmImages])
def test_processes_and_pieces_see_what_one_does(kind: type[Images]) -> None:
    whole = images(kind)
    parts = [images(kind, processes=Processes(rank, 2), micro_batch=32) for rank in range(2)]
    for step, (one, *shares) in enumerate(zip(whole.epoch(3), *(part.epoch(3) for part in parts), strict=True)):
        pieces = [piece for share in shares for piece in share]
        assert torch.equal(one[0].labels, torch.cat([piece.labels for piece in pieces]))
        torch.testing.assert_close(one[0].images, torch.cat([piece.images for piece in pieces]), rtol=0, atol=1e-6)
        if step == 1:
            break


@pytest.mark.parametrize("kind", [TensorImages, TimmImages])
def test_epoch_goes_on_inside(kind: type[Images]) -> None:
    whole = [batch for (batch,) in images(kind).epoch(1)]
    rest = [batch for (batch,) in images(kind).epoch(1, 5)]  # with workers: test_train_cli
    assert len(whole) == 7
    for one, other in zip(whole[5:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_every_image_once_in_another_order() -> None:
    source = images(recipe=replace(QUIET, batch_size=31))  # 29 batches of 31 are all 899
    orders = [torch.cat([batch.labels for (batch,) in source.epoch(epoch)]) for epoch in range(2)]
    assert not torch.equal(*orders)
    expected = source.labels_N.bincount()
    assert all(torch.equal(order.bincount(), expected) for order in orders)


def test_images_are_changed_as_drawn() -> None:
    still = images(recipe=replace(QUIET, rotate=0.0, shift=0.0))
    x = torch.rand(2, 1, 16, 16)
    draws = [torch.zeros(2) for _ in range(7)]
    torch.testing.assert_close(still.change(x, draws), x)
    flipped = images(recipe=replace(QUIET, flip=0.5))
    draws[3] = torch.tensor([-0.1, 0.1])  # below 0.5 of 0..1, and above
    torch.testing.assert_close(flipped.change(x, draws), torch.stack((x[0].flip(-1), x[1])))
    shifted = images(recipe=replace(QUIET, shift=0.25))
    draws[3], draws[5] = torch.ones(2), torch.ones(2)  # a quarter of 16 pixels to the left
    torch.testing.assert_close(shifted.change(x, draws)[..., :12], x[..., 4:])
    assert (shifted.change(x, draws)[..., 12:] == 0).all()
    whole = images(recipe=replace(QUIET, rotate=0.0, shift=0.1))  # 1.6 pixels
    torch.testing.assert_close(whole.change(x, draws)[..., :14], x[..., 2:])


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    result = train(TINY, data="digits", out=directory)
    assert result.figures["images"] == 898
    return directory


def test_run_leaves_a_checkpoint_a_log_and_curves(whole_run: Path) -> None:
    assert sorted(p.name for p in whole_run.iterdir()) == ["curves.png", "log.jsonl", "model.safetensors", "state.pt"]
    records = [json.loads(line) for line in (whole_run / "log.jsonl").read_text().splitlines()]
    assert [record["mask"] for record in records if "top1" in record] == [pytest.approx(1 - 6 / 13), 0, 0]
    assert [record["updates"] for record in records if "loss" in record] == list(range(1, 22))
    about = read_checkpoint(whole_run / "model.safetensors")
    assert (about.classes, about.data, about.preprocessing.mean) == (tuple("0123456789"), "digits", (0.3,))
    figures = illama_deploy.evaluate(str(whole_run / "model.safetensors")).figures
    assert figures["top1"] == pytest.approx([record for record in records if "top1" in record][-1]["top1"])


@pytest.mark.parametrize("updates", [0, 3, 7, 16])
def test_resumed_run_ends_in_the_same_weights(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int
) -> None:
    """Killed without warning after some updates, the state saved a while before."""
    update = Trainer._update

    def killed(self: Trainer, *args: Any) -> tuple[float, bool]:
        if self.updates == updates:
            raise KeyboardInterrupt
        return update(self, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_update", killed)
        train(TINY, data="digits", out=tmp_path / "run", save_minutes=0 if updates % 2 else 10)
    torch.manual_seed(updates)  # whatever state this process is in
    train(TINY, data="digits", out=tmp_path / "run", resume=True)
    assert same(weights(whole_run / "model.safetensors"), weights(tmp_path / "run" / "model.safetensors"))
    assert losses(whole_run) == losses(tmp_path / "run")


def test_resume_where_nothing_was_saved_begins(whole_run: Path, tmp_path: Path) -> None:
    train(TINY, data="digits", out=tmp_path / "run", resume=True)
    assert same(weights(whole_run / "model.safetensors"), weights(tmp_path / "run" / "model.safetensors"))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stops_after_the_update_and_saves(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    update, before = Trainer._update, signal.getsignal(kind)

    def signalled(self: Trainer, *args: Any) -> tuple[float, bool]:
        result = update(self, *args)
        if self.updates == 9:
            os.kill(os.getpid(), kind)
        return result

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match=f"{kind.name} after 1[01] updates"):
        patched.setattr(Trainer, "_update", signalled)
        train(TINY, data="digits", out=tmp_path / "run")
    assert signal.getsignal(kind) is before
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]["updates"] in (10, 11)
    train(TINY, data="digits", out=tmp_path / "run", resume=True)
    assert same(weights(whole_run / "model.safetensors"), weights(tmp_path / "run" / "model.safetensors"))


def test_killed_process_goes_on(whole_run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    table = TINY.to_dict()
    model = table.pop("model")
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    recipe.write_text("\n".join([*lines, "[model]", *(f"{key} = {json.dumps(v)}" for key, v in model.items())]))
    command = [sys.executable, "-m", "illama_deploy", "train", "--recipe", recipe, "--data", "digits",
               "--save-minutes", "0", "--out", tmp_path / "run"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT)
    state = tmp_path / "run" / "state.pt"
    while process.poll() is None and len(losses(tmp_path / "run") if state.exists() else []) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    train(recipe, data="digits", out=tmp_path / "run", resume=True)
    assert same(weights(whole_run / "model.safetensors"), weights(tmp_path / "run" / "model.safetensors"))
    assert not list((tmp_path / "run").glob(".*"))


def test_accumulated_batch_is_the_batch(tmp_path: Path) -> None:
    for name, pieces in (("whole", None), ("pieces", 32)):
        train(QUIET, data="digits", out=tmp_path / name, micro_batch=pieces)
    torch.testing.assert_close(losses(tmp_path / "whole"), losses(tmp_path / "pieces"), rtol=0, atol=1e-4)


def test_two_processes_follow_one(tmp_path: Path) -> None:
    train(QUIET, data="digits", out=tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"""
import tests.training.test_training as t, illama_deploy
result = t.train(t.QUIET, data="digits", out={str(tmp_path / "two")!r})
"""
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**environment, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 21
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)
    ends = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("one", "two")]
    assert ends[0]["images"] == ends[1]["images"] == 898
    assert ends[0]["top1"] == pytest.approx(ends[1]["top1"], abs=0.5)


def test_no_finite_loss_stops_and_names_the_state(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no finite number") as raised:
        train(QUIET.override(lr=1e30, warmup_epochs=0.0), data="digits", out=tmp_path / "run")
    assert str(tmp_path / "run" / "state.pt") in str(raised.value)
    update, of = re.findall(r"update (\d+) of (\d+)", str(raised.value))[0]
    assert int(update) <= int(of)
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["parts"]["model"]
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_run_that_is_there_is_left(whole_run: Path) -> None:
    with pytest.raises(ArtifactError, match="a run already"):
        train(TINY, data="digits", out=whole_run)


def test_resume_of_another_run_lists_the_differences(whole_run: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(whole_run, tmp_path / "run")
    with pytest.raises(UsageError) as raised:
        train(TINY, data="digits", lr=1e-3, out=copy, resume=True)
    assert "recipe.lr: 0.002 there, 0.001 now" in str(raised.value)
    assert "recipe.epochs" not in str(raised.value)
    train(TINY, data="digits", lr=1e-3, out=copy, resume=True, force=True)


def test_embedded_default_is_the_digits_recipes(tmp_path: Path) -> None:
    recipe, embedded = TrainRecipe.read("digits"), read_checkpoint("digits")
    assert IllamaConfig(**{**dict(recipe.model), "classes": 10}) == embedded.config
    assert (recipe.mean, recipe.std, recipe.data) == (embedded.preprocessing.mean, embedded.preprocessing.std, "digits")
    assert illama_deploy.evaluate("digits").figures["top1"] >= 97


# --- other sizes, other classes, other networks ----------------------------------------------------------------------


@pytest.mark.parametrize("says", ["is killed by signal: Killed. ", "exited unexpectedly"])
def test_worker_that_dies_inside_an_update(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's signal handler raises wherever the main thread is: the state before that update stands."""
    update = Trainer._update

    def killed(self: Trainer, *arguments: Any) -> tuple[float, bool]:
        if self.updates == 9:
            raise RuntimeError(f"DataLoader worker (pid 1) {says}")
        return update(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", killed)
        with pytest.raises(TrainingError, match="A worker process died") as raised:
            train(QUIET, data="digits", out=tmp_path / "run")
    assert "`resume=True`" in str(raised.value.hint)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["position"]["updates"] == 7
    train(QUIET, data="digits", out=tmp_path / "run", resume=True)
    train(QUIET, data="digits", out=tmp_path / "whole")
    assert same(*(weights(tmp_path / name / "model.safetensors") for name in ("run", "whole")))


def test_worker_that_dies_while_it_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection breaks before torch's signal handler is told."""

    def told(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    def broken(*arguments: Any) -> tuple[float, bool]:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(Trainer, "_update", broken)
    before = signal.signal(signal.SIGALRM, told)
    try:
        with pytest.raises(TrainingError, match="A worker process died"):
            train(QUIET, data="digits", out=tmp_path / "run")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_broken_connection_of_no_worker_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> tuple[float, bool]:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(Trainer, "_update", broken)
    with pytest.raises(ConnectionResetError):
        train(QUIET, data="digits", out=tmp_path / "run")


def test_fine_tuning_at_another_size(tmp_path: Path) -> None:
    recipe = QUIET.override(epochs=1, warmup_epochs=0.0, soft_mask="none", soft_mask_epochs=0.0, lr=1e-5, model=())
    train(recipe, checkpoint="digits", image_size=(24, 24), out=tmp_path / "run")
    about = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert about.config == replace(read_checkpoint("digits").config, image_size=(24, 24))
    assert about.preprocessing.size == (24, 24)


def test_new_head_for_other_classes(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for label in range(3):
            (tmp_path / split / str(label)).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (32, 32), 80 * label).save(tmp_path / split / str(label) / f"{number}.png")
    recipe = QUIET.override(epochs=1, warmup_epochs=0.0, soft_mask="none", soft_mask_epochs=0.0, batch_size=4, model=())
    result = train(recipe, checkpoint="digits", new_head=True, data=f"folder:{tmp_path}", out=tmp_path / "run")
    about = read_checkpoint(result.path)
    assert (about.config.classes, about.classes) == (3, ("0", "1", "2"))
    assert about.state["head.weight"].abs().max() < 0.2  # the old one's, 0.6, is gone


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_trains_the_head_alone(tmp_path: Path, frozen: bool) -> None:
    recipe = QUIET.override(
        epochs=1, warmup_epochs=0.0, soft_mask="none", soft_mask_epochs=0.0, model=(), data="digits"
    )
    result = train(recipe, checkpoint="digits", frozen=frozen, out=tmp_path / "run")
    before, after = weights(Path(str(read_checkpoint("digits").path))), weights(result.path)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == ({"head.weight", "head.bias"} if frozen else set(before))


def test_frozen_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`checkpoint`"):
        train(QUIET, frozen=True, data="digits", out=tmp_path / "run")


VARIATIONS = [
    {"ffn": "gelu"},
    {"norm": "layer"},
    {"mask": "additive"},
    {"mask": "modified", "class_token": "first"},
    {"mask": "none", "class_token": "first", "positions": "learned", "ffn": "gelu", "norm": "layer"},
    {"positions": "rope"},
]


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
def test_step_on_the_road_trains_and_is_read_again(tmp_path: Path, variation: dict[str, str]) -> None:
    recipe = QUIET.override(epochs=2, warmup_epochs=0.0, soft_mask="none", soft_mask_epochs=0.0, lr=5e-3)
    recipe = recipe.override(model=(*recipe.model, *variation.items()))
    result = train(recipe, data="digits", out=tmp_path / "run")
    assert sum(losses(tmp_path / "run")[-3:]) < sum(losses(tmp_path / "run")[:3])
    assert read_checkpoint(result.path).config.variation == variation
    assert illama_deploy.evaluate(str(result.path)).figures["top1"] == pytest.approx(result.figures["top1"])
    quantized = quantize_step(result.path, calib_images=64, out=tmp_path / "q")
    figures = illama_deploy.evaluate(str(quantized.path), reference=str(result.path)).figures
    assert figures["agreement"] > 95


# --- quantized networks in training ----------------------------------------------------------------------------------


SHORT = TrainRecipe.read("qat-digits").override(epochs=2, warmup_epochs=0.2)
#: Rounded so simply that there is something to recover.
ROUGH = Recipe(format="W3A3", range="minmax", rounding="nearest", attention_products=False, calib_images=64)


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize_step(recipe=ROUGH, out=tmp_path_factory.mktemp("rough") / "quantized").path


@pytest.fixture(scope="module")
def trained(rough: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("qat") / "run"
    qat(rough, recipe=SHORT, out=directory)
    return directory


def test_qat_recovers_and_exports(rough: Path, trained: Path, tmp_path: Path) -> None:
    before, after = (
        illama_deploy.evaluate(str(path), reference="digits").figures for path in (rough, trained / "quantized")
    )
    assert after["top1"] > before["top1"] + 2
    manifest = json.loads((trained / "quantized" / "manifest.json").read_text())
    assert (manifest["format"], manifest["qat"]["recipe"]["epochs"]) == ("W3A3", 2)
    module = load_quantized(trained / "quantized").model.blocks[0].mlp.fc2
    assert manifest["sites"]["blocks.0.mlp.fc2"]["inputs"]["input"]["scale"] == float(module.input_scale)
    mlp = load_quantized(trained / "quantized").model.blocks[0].mlp
    assert torch.equal(mlp.fc1.input_scale, mlp.fc3.input_scale)  # one input, quantized once
    exported = illama_deploy.export(trained / "quantized", simulate=True, float=False, out=tmp_path / "onnx")
    figures = illama_deploy.evaluate(str(exported.model), reference=str(trained / "quantized")).figures
    assert figures["agreement"] >= 99


def test_qat_goes_on_inside_an_epoch(
    rough: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Trainer._update

    def killed(self: Trainer, *args: Any) -> tuple[float, bool]:
        if self.updates == 17:
            raise KeyboardInterrupt
        return update(self, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_update", killed)
        qat(rough, recipe=SHORT, out=tmp_path / "run", save_minutes=0)
    qat(rough, recipe=SHORT, out=tmp_path / "run", resume=True)
    one, other = (load_quantized(path / "quantized").model for path in (trained, tmp_path / "run"))
    assert same(one.state_dict(), other.state_dict())


def test_qat_of_a_checkpoint_quantizes_it_first(tmp_path: Path) -> None:
    recipe = SHORT.override(epochs=1, teacher=0.0, features=0.5, steps="fixed", precision="float32")
    for left in (
        ".start.illama-partial-a",
        ".quantized.illama-partial-a",
    ):  # of a process that was killed
        (tmp_path / "run" / left).mkdir(parents=True)
        (tmp_path / "run" / left / "manifest.json").touch()
    result = qat("digits", format="W8A8", calib_images=64, recipe=recipe, out=tmp_path / "run", resume=True)
    names = ["curves.png", "log.jsonl", "quantized", "start", "state.pt"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    start, trained = (load_quantized(tmp_path / "run" / name).model for name in ("start", "quantized"))
    one, other = start.blocks[0].mlp.fc2, trained.blocks[0].mlp.fc2
    assert torch.equal(one.weight_scale, other.weight_scale)  # steps are fixed
    assert not torch.equal(one.weight_q, other.weight_q)
    assert load_checkpoint(result.path)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_collapse_of_a_leading_class_token() -> None:
    """Behind an additive causal mask it sees itself alone; the multiplied one leaks through softmax's denominator."""
    change = {}
    for mask in ("additive", "multiplied"):
        config = IllamaConfig(32, 2, 1, (16, 16), 4, mask=mask, class_token="first")
        torch.manual_seed(0)
        model = Illama(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        with torch.inference_mode():
            one, other = model(torch.randn(2, 3, 16, 16))
        change[mask] = float((one - other).abs().max())
    assert change["additive"] == 0.0
    assert change["multiplied"] > 1e-3
