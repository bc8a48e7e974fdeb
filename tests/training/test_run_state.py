"""A run's directory: who may write there, and what is refused of what was found there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from illama_deploy import TrainRecipe
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.errors import ArtifactError, CheckpointError, DeployError, RecipeError, UsageError
from illama_deploy.steps.train import train
from illama_deploy.training import RunDirectory
from illama_deploy.training.recipe import SHIPPED
from illama_deploy.training.state import read_state, write_state

from ..bad_input import assert_error
from ..conftest import Cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = (("dim", 32), ("depth", 1), ("heads", 1), ("image_size", 16), ("patch_size", 8), ("channels", 1))
#: Three updates an epoch of a network that takes milliseconds.
TINY = TrainRecipe(
    model=MODEL, mean=(0.3,), std=(0.3,), epochs=2, batch_size=256, lr=2e-3, warmup_epochs=0.5, ema=0.9,
    precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state") / "run"
    train(TINY, data="digits", out=directory, threads=1)
    return directory


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def resume(run: Path, **options: Any) -> None:
    train(TINY, data="digits", out=run, resume=True, **options)


def reopen(run: Path) -> None:
    """What a resumed run does first; the same identity, and no network is made."""
    identity = json.loads(content(run)["identity"]) if (run / "state.pt").stat().st_size > 1000 else {}
    with RunDirectory(run, identity, resume=True, force=False):
        pass


def content(run: Path) -> dict[str, Any]:
    return dict(torch.load(run / "state.pt", weights_only=True))


def test_state_is_a_file_of_torchs_and_goes_on(run: Path) -> None:
    assert set(content(run)) == {"schema", "identity", "means", "position", "parts"}
    before = (run / "log.jsonl").read_bytes()
    resume(run)
    assert (run / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0])
def test_flipped_bit(run: Path, share: float) -> None:
    state = run / "state.pt"
    data = bytearray(state.read_bytes())
    data[round(share * (len(data) - 1))] ^= 4
    state.write_bytes(data)
    with (
        pytest.raises(CheckpointError, match="does not match its seal") as raised,
        RunDirectory(run, {}, resume=True, force=False),
    ):
        pass
    assert str(state) in str(raised.value)
    assert "`force=True`" in str(raised.value)


def rewrite(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a state and seal it again."""
    changed = content(run)
    change(changed)
    write_state(run / "state.pt", changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["parts"].update(optimizer=5), "object"),
        (lambda c: c["parts"]["model"].update(pos_embed=torch.zeros(1).expand(10**9)), "larger"),
        (lambda c: c.pop("parts"), "object"),
        (lambda c: c.pop("position"), "object"),
        (lambda c: c["position"].update(epoch="2"), "epoch"),
        (lambda c: c["position"].update(epoch=-1), "epoch"),
        (lambda c: c["position"].update(step=True), "step"),
        (lambda c: c["position"].update(sums=[1.0]), "sums"),
        (lambda c: c["means"].update(threads=0), "threads"),
        (lambda c: c["means"].update(threads=10**9), "threads"),
        (lambda c: c.update(means=None), "object"),
        (lambda c: c.update(identity="{"), ""),
        (lambda c: c.update(identity="[]"), "identity"),
        (lambda c: c.update(identity="[" * 10_000), "nested"),
        (lambda c: c.update(identity=5), "str"),
        (lambda c: c.update(schema="illama-deploy/run/1"), "illama-deploy/run/2"),
    ],
)
def test_sealed_state_of_another_kind(run: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    """The seal holds, and what it seals is no state."""
    rewrite(run, change)
    with pytest.raises(CheckpointError) as raised, RunDirectory(run, {}, resume=True, force=False):
        pass
    assert says in str(raised.value)
    assert str(run / "state.pt") in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["parts"].pop("optimizer"), "holds no optimizer"),
        (lambda c: c["parts"].pop("ema"), "holds no ema"),
        (lambda c: c["parts"]["optimizer"].pop("state"), "state"),
        (lambda c: c["parts"]["optimizer"].update(param_groups=[]), "group"),
        (lambda c: c["parts"]["optimizer"].update(state=[]), ""),
        (lambda c: c["parts"]["model"].pop("cls_token"), "cls_token"),
        (lambda c: c["parts"]["model"].update(pos_embed=5), "pos_embed"),
        (lambda c: c["parts"]["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "exp_avg"),
        (lambda c: c["position"].update(updates=5), "update"),
        (lambda c: c["position"].update(step=10**6), "update"),
    ],
)
def test_sealed_state_of_another_network(run: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    rewrite(run, change)
    with pytest.raises(CheckpointError) as raised:
        resume(run)
    assert says in str(raised.value)
    assert str(run / "state.pt") in str(raised.value)


@pytest.mark.parametrize("data", [b"", b"x" * 10, b"x" * 100, b"0" * 64])
def test_no_state_at_all(run: Path, data: bytes) -> None:
    (run / "state.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="state cannot be read"):
        reopen(run)


def test_pickle_that_runs_code(run: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    write_state(run / "state.pt", {"parts": Hostile()})
    with pytest.raises(CheckpointError, match="state cannot be read"), RunDirectory(run, {}, resume=True, force=False):
        pass
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "line",
    [b"5", b"[]", b"{}", b"null", b'{"updates": "1", "epoch": 1, "loss": 1}', b'{"updates": 1, "epoch": 1}', b"{",
     b'{"updates": 1, "epoch": 1, "loss": NaN}', b'{"updates": 1, "epoch": null, "loss": 1}', b"\xff", b"[" * 5000,
     b'{"updates": 1, "epoch": 1, "loss": 1, "x": {}}', b'{"updates": 1, "epoch": 1, "loss": 1, "loss": 2}'],
)  # fmt: skip
def test_line_that_is_no_record(run: Path, line: bytes) -> None:
    log = run / "log.jsonl"
    first, rest = log.read_bytes().split(b"\n", 1)
    log.write_bytes(first + b"\n" + line + b"\n" + rest)
    with pytest.raises(ArtifactError, match="Line 2 of the run's log is no record") as raised:
        reopen(run)
    assert str(log) in str(raised.value)
    assert log.read_bytes() == first + b"\n" + line + b"\n" + rest


def test_last_line_that_was_cut_short(run: Path) -> None:
    log = run / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"updates": 7, "ep')
    resume(run)  # which evaluates the last epoch again
    assert log.read_bytes() == whole


def test_another_optimizer_and_decay_are_the_recipes(run: Path) -> None:
    """With --force what the recipe says now counts, not what the state had."""
    said: list[str] = []
    changed = replace(TINY, epochs=3, optimizer="lion", weight_decay=0.5)
    train(changed, data="digits", out=run, resume=True, force=True, say=said.append)
    assert any("optimizer is another one" in line for line in said)
    (group, *_) = content(run)["parts"]["optimizer"]["param_groups"]
    assert 0.5 in {g["weight_decay"] for g in content(run)["parts"]["optimizer"]["param_groups"]}
    assert "momentum_buffer" not in str(group)


def test_threads_are_those_that_a_run_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over several threads round otherwise; a wide network, so that there is something to divide."""
    from illama_deploy.training import Trainer

    recipe = replace(TINY, model=(*MODEL[3:], ("dim", 256), ("depth", 1), ("heads", 4)), batch_size=128, epochs=1)
    update, before = Trainer._update, torch.get_num_threads()
    for threads in (1, 2):
        train(recipe, data="digits", out=tmp_path / f"of {threads}", threads=threads)
    assert torch.get_num_threads() == before

    def killed(self: Trainer, *arguments: Any) -> tuple[float, bool]:
        if self.updates == 4:
            raise KeyboardInterrupt
        return update(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_update", killed)
        train(recipe, data="digits", out=tmp_path / "run", threads=2, save_minutes=0)
    said: list[str] = []
    with pytest.raises(UsageError, match="threads: 2 there, 1 now"):
        train(recipe, data="digits", out=tmp_path / "run", resume=True, threads=1)
    torch.set_num_threads(1)
    try:
        train(recipe, data="digits", out=tmp_path / "run", resume=True, say=said.append)
    finally:
        torch.set_num_threads(before)
    assert any("Going on with 2 threads" in line for line in said)
    one, two, resumed = (
        read_checkpoint(tmp_path / name / "model.safetensors").state for name in ("of 1", "of 2", "run")
    )
    assert all(torch.equal(two[key], resumed[key]) for key in two)
    assert any(not torch.equal(one[key], two[key]) for key in two)  # or this test shows nothing


def test_other_means_are_said(run: Path) -> None:
    said: list[str] = []
    resume(run, micro_batch=64, say=said.append)
    assert any("micro batch 256, going on with 64" in line for line in said)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """The first goes on unharmed, and another may follow it once it was killed."""
    recipe = tmp_path / "small.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in TINY.to_dict().items() if key != "model"]
    recipe.write_text("\n".join([*lines, "[model]", *(f"{key} = {json.dumps(value)}" for key, value in MODEL)]))
    command = [sys.executable, "-m", "illama_deploy", "train", "--recipe", recipe, "--data", "digits",
               "--out", tmp_path / "run", "--epochs", "10000"]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run" / "state.pt").exists():
            assert first.poll() is None
            time.sleep(0.05)
        for options in ({"force": True}, {"resume": True}, {}):
            with pytest.raises(ArtifactError, match="Another run is writing there"):
                train(TINY, data="digits", out=tmp_path / "run", **options)
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    train(TINY, data="digits", out=tmp_path / "run", force=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "curves.png", "log.jsonl", "model.safetensors", "state.pt",
    ]  # fmt: skip


def test_one_run_by_whatever_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with RunDirectory(tmp_path / "run", {}, resume=False, force=False):
        for other in (tmp_path / "link", tmp_path / "run"):
            with pytest.raises(ArtifactError, match="Another run"), RunDirectory(other, {}, resume=True, force=True):
                pass
    with RunDirectory(tmp_path / "link", {}, resume=True, force=True) as run:
        assert run.saved is None


def test_foreign_hidden_files_stay(run: Path) -> None:
    for name in (".notes.partial-1", ".x.old-2", ".state.pt.mine"):
        (run / name).write_text("mine")
    reopen(run)
    assert {".notes.partial-1", ".x.old-2", ".state.pt.mine"} <= {path.name for path in run.iterdir()}


# --- recipes ---------------------------------------------------------------------------------------------------------

RECIPE = "epochs = 2\nwarmup_epochs = 1\nbatch_size = 128\n[model]\ndim = 32\ndepth = 2\nheads = 1\nimage_size = 16\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("epochs = 2", 'optimizer = "adamm"', "'optimizer'"),
        ("epochs = 2", 'auto_augment = "rnad-m9"', "'auto_augment'"),
        ("epochs = 2", 'auto_augment = "rand-m9-mstd"', "'mstd' is no section"),
        ("epochs = 2", 'auto_augment = "rand-n9999"', "operations"),
        ("depth = 2", "depth = 1.5", "'model.depth'"),
        ("depth = 2", "depth = -1", "0.."),
        ("depth = 2", "depth = 0", "no network"),
        ("depth = 2", 'depth = "2"', "'model.depth'"),
        ("depth = 2", "depth = true", "'model.depth'"),
        ("depth = 2", "depth = 100000000", "0.."),
        ("depth = 2", "depth = 30000\nhidden = 30000", "GiB"),
        ("dim = 32", "dim = 0x" + "f" * 10_000, "64 bits"),
        ("dim = 32", "dim = 33", "no network"),
        ("heads = 1", "heads = {}", "'model.heads'"),
        ("image_size = 16", "image_size = []", "'model.image_size'"),
        ("image_size = 16", "image_size = [16, 16, 16]", "'model.image_size'"),
        ("image_size = 16", "image_size = [16.0, 16]", "'model.image_size'"),
        ("image_size = 16", "image_size = 1000000", "side"),
        ("image_size = 16", 'image_size = 16\nmask = ["none"]', "'model.mask'"),
        ("image_size = 16", 'image_size = 16\nmask = "nune"', "'model.mask'"),
        ("image_size = 16", "image_size = 16\nchannels = 2", "channels"),
        ("image_size = 16", "image_size = 16\nmean = 1", "'mean'"),
        ("epochs = 2", "mean = [0.5]\nstd = [0.5]\nepochs = 2\nx = 1", "'x'"),
        ("epochs = 2", "mean = [0.5]\nstd = [0.0]", "deviation"),
        ("epochs = 2", "mean = [0.5, 0.5]\nstd = [0.5, 0.5]", "channels"),
        ("epochs = 2", "zoom = [0.0, 1.0]", "zoom"),
        ("epochs = 2", "zoom = [1.0, 1e9]", "zoom"),
        ("epochs = 2", "crop_scale = [0.5]", "crop_scale"),
        ("epochs = 2", "crop_scale = [0.9, 0.1]", "crop_scale"),
        ("epochs = 2", "lr = inf", "'lr'"),
        ("epochs = 2", "lr = -1", "'lr'"),
        ("epochs = 2", "lr_start = nan", "'lr_start'"),
        ("epochs = 2", "temperature = 0", "'temperature'"),
        ("epochs = 2", "clip_grad = -1", "'clip_grad'"),
        ("epochs = 2", "seed = 99999999999999999999", "'seed'"),
        ("epochs = 2", "seed = " + "9" * 5000, "not TOML"),
        ("epochs = 2", "epochs = 1979-05-27", "'epochs'"),
        ("epochs = 2", 'data = "timm:wds/x?root=pipe:true"', "'data'"),
        ("epochs = 2", 'data = "folder:/"', "'data'"),
        ("epochs = 2", "soft_mask = 1", "'soft_mask'"),
        ("epochs = 2", "rotate = -1", "'rotate'"),
        ("epochs = 2", "a = " + "[" * 30_000 + "]" * 30_000, "nested"),
        ("epochs = 2", ".".join("a" * 30_000) + " = 1", "32 parts"),
        ("epochs = 2", "# " + "x" * 70_000, "64 KiB"),
        ("epochs = 2", f'"{"k" * 9000}" = 1', "unknown key"),
        ("epochs = 2", "stored = " + '"' + "x" * 9000 + '"', "'stored'"),
        ("[model]", "[[model]]", "'model'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_recipe_that_is_none(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError) as raised:  # there are no such data: nothing is read before
        train(path, data="folder:/nowhere", out=tmp_path / "run")
    assert says in str(raised.value)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert not (tmp_path / "run").exists()


def test_recipe_that_is_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("x" * 5000)):
        with pytest.raises(RecipeError):
            TrainRecipe.read(path)


def test_shipped_recipes_are_small() -> None:
    assert max(path.stat().st_size for path in SHIPPED.glob("*.toml")) < 2000


def test_workers_and_threads_of_no_number(cli: Cli, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    for option in (("--threads", 0), ("--workers", -1), ("--threads", 10**9)):
        code, _, err = cli("train", "--recipe", "digits", *option, *out)
        assert_error(code, err, "--workers", "--threads")
    with pytest.raises(DeployError):
        train("digits", threads=0, out=tmp_path / "run")


def test_written_state_is_read(tmp_path: Path) -> None:
    means = {"threads": 1, "processes": 1, "micro_batch": 1, "compiled": False, "device": "", "torch": ""}
    position = {"epoch": 0, "step": 0, "updates": 0, "sums": [0.0, 0.0]}
    parts = {"model": {"x": torch.arange(3.0)}}
    write_state(tmp_path / "s", {"identity": "{}", "means": means, "position": position, "parts": parts})
    assert torch.equal(read_state(tmp_path / "s").parts["model"]["x"], torch.arange(3.0))
