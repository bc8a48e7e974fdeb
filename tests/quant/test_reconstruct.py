"""Block reconstruction, and going on after an interruption."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import illama_deploy
from illama_deploy import RecipeError, UsageError
from illama_deploy.formats import parse_format
from illama_deploy.journal import Journal
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.quant import QuantLinear, QuantMatMul
from illama_deploy.quant.learnable import LearnableLinear
from illama_deploy.quant.network import quantize_network
from illama_deploy.quant.reconstruct import reconstruct_block
from illama_deploy.quant.sites import find_sites
from illama_deploy.recipe import Recipe
from illama_deploy.rounding import nearest

pytestmark = pytest.mark.slow

W3A3 = parse_format("W3A3")

SHARED = (("mlp.fc1", "mlp.fc3"),)


def _network(format_: str = "W3A3") -> tuple[Illama, Illama]:
    """A float network and its twin, quantized with made-up ranges."""
    torch.manual_seed(0)
    model = Illama(IllamaConfig(dim=64, depth=1, heads=1, image_size=(16, 16), patch_size=4, classes=4)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.bias.normal_(std=0.3)
    quantized, sites = copy.deepcopy(model), find_sites(model)
    formats = {s.name: parse_format(format_ if not s.is_product else "W8A8") for s in sites}
    thresholds = {f"{s.name}/{name}": 2.0 for s in sites for name in s.inputs}
    quantize_network(quantized, sites, thresholds, formats, lambda w, kind, group: nearest(w, kind, group=group))
    return model, quantized


@torch.no_grad()
def test_reconstruction_brings_a_block_nearer_and_repeats_itself() -> None:
    model, quantized = _network()
    inputs = list(torch.randn(64, 17, 64).split(8))
    targets = [model.blocks[0](x) for x in inputs]
    blocks = [copy.deepcopy(quantized.blocks[0]) for _ in range(2)]
    done = [
        reconstruct_block(b, model.blocks[0], inputs, targets, shared=SHARED, steps=40, seed=0, name="b")
        for b in blocks
    ]
    assert done[0].after_db > done[0].before_db + 1
    states = [b.state_dict() for b in blocks]
    assert done[0] == done[1] and all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    held_out = torch.randn(16, 17, 64)
    expected = model.blocks[0](held_out)
    before, after = ((b(held_out) - expected).square().mean() for b in (quantized.blocks[0], blocks[0]))
    assert after < before
    kinds = {type(m) for _, m in blocks[0].named_modules()}
    assert {QuantLinear, QuantMatMul} <= kinds and LearnableLinear not in kinds


@torch.no_grad()
def test_what_gets_worse_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, quantized = _network()
    inputs = list(torch.randn(16, 17, 64).split(8))
    targets = [model.blocks[0](x) for x in inputs]
    monkeypatch.setattr("illama_deploy.quant.reconstruct.LR_INTEGERS", 50.0)
    monkeypatch.setattr("illama_deploy.quant.reconstruct.LR_STEPS", 1.0)
    state = {k: v.clone() for k, v in quantized.blocks[0].state_dict().items()}
    done = reconstruct_block(
        quantized.blocks[0], model.blocks[0], inputs, targets, shared=SHARED, steps=3, seed=0, name="b"
    )
    assert done.before_db == done.after_db
    assert all(torch.equal(v, quantized.blocks[0].state_dict()[k]) for k, v in state.items())


def _best() -> Recipe:
    return replace(Recipe.for_format("W4A4", "best"), calib_images=64, reconstruct=4)


def _same(left: Path, right: Path) -> bool:
    return all((left / n).read_bytes() == (right / n).read_bytes() for n in ("model.safetensors", "manifest.json"))


def test_interrupted_anywhere_it_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = illama_deploy.quantize("digits", recipe=_best(), out=tmp_path / "whole")
    assert [*whole.manifest["reconstructed"]] == ["blocks.0", "blocks.1"]
    put, again, puts = Journal.put, tmp_path / "again", 0

    def interrupted(self: Journal, name: str, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal puts
        puts += 1
        put(self, name, tensors)
        if puts % 2:  # every second entry, right after it was made
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "put", interrupted)
    attempts = 0
    while not again.exists():
        attempts += 1
        try:
            illama_deploy.quantize("digits", recipe=_best(), out=again)
        except KeyboardInterrupt:
            assert not again.exists()
    # The patch embedding, four stages and a reconstruction for each block, the head: none of them done twice.
    assert (attempts, puts) == (7, 12)
    assert _same(tmp_path / "whole", again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "whole"]


def test_killed_it_goes_on(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    values = {key: value for key, value in _best().to_dict().items() if key != "overrides"}
    recipe.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    command = [sys.executable, "-m", "illama_deploy", "quantize", "digits", "--recipe", str(recipe), "--out"]
    journal = tmp_path / ".killed.illama-unfinished"
    with subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(journal.glob("blocks.*"))) < 3:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed").exists()
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], check=True)
    assert _same(tmp_path / "killed", tmp_path / "whole")
    assert not journal.exists()


def test_efforts() -> None:
    fast, balanced, best = (Recipe.for_format("W4A8", effort) for effort in ("fast", "balanced", "best"))
    assert balanced == Recipe.for_format("W4A8") and fast.calib_images < balanced.calib_images
    assert (balanced.reconstruct, best.reconstruct > 0) == (0, True)
    assert Recipe.for_format("FP8", "best") == Recipe.for_format("FP8")
    with pytest.raises(UsageError, match="no effort 'harder'"):
        Recipe.for_format("W4A8", "harder")
    with pytest.raises(UsageError, match="`effort`"):
        illama_deploy.quantize("digits", recipe="w8a8", effort="best")
    with pytest.raises(RecipeError, match="rounds all at once"):
        illama_deploy.quantize("digits", recipe=Recipe(reconstruct=10))
    with pytest.raises(RecipeError, match="negative"):
        Recipe(reconstruct=-1)


def test_only_integers_are_learned() -> None:
    linear = nn.Linear(16, 4)
    with pytest.raises(TypeError):
        LearnableLinear(QuantLinear.like(linear, parse_format("FP8")), linear.weight)
