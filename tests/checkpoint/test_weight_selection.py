"""Weight selection element for element, and how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from illama_deploy.checkpoint import read_checkpoint, save_checkpoint, select_weights
from illama_deploy.errors import CheckpointError
from illama_deploy.model.illama import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing

State = dict[str, Tensor]
TARGET = IllamaConfig(dim=24, depth=2, heads=2, image_size=(16, 16), patch_size=4, classes=5, hidden=40)
DIM, HIDDEN, HEADS, LAYERS = 64, 100, 8, 3


def llama(key_heads: int = HEADS) -> State:
    """Random tensors with the names and shapes that Hugging Face's LLaMA has."""
    generator = torch.Generator().manual_seed(key_heads)
    keys = DIM // HEADS * key_heads
    shapes = {
        **{"input_layernorm": (DIM,), "post_attention_layernorm": (DIM,)},
        **{"self_attn.q_proj": (DIM, DIM), "self_attn.k_proj": (keys, DIM), "self_attn.v_proj": (keys, DIM)},
        **{"self_attn.o_proj": (DIM, DIM), "mlp.gate_proj": (HIDDEN, DIM), "mlp.up_proj": (HIDDEN, DIM)},
        "mlp.down_proj": (DIM, HIDDEN),
    }
    names = {f"model.layers.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in shapes.items()}
    names |= {"model.embed_tokens.weight": (50, DIM), "model.norm.weight": (DIM,), "lm_head.weight": (50, DIM)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in names.items()}


def write(folder: Path, state: State, shards: int = 2, **config: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    table = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensor for i, (name, tensor) in enumerate(state.items()) if i % shards == number}
        save_file(part, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def pick(size: int, count: int) -> list[int]:
    """The authors' rule for one axis."""
    if size % count == 0:
        return [i * (size // count) for i in range(count)]
    return [round(float(x)) for x in torch.linspace(0, size - 1, count)]  # both round half to even


def expected(weight: Tensor, shape: torch.Size) -> Tensor:
    """The authors' rule, element for element."""
    axes = [pick(size, count) for size, count in zip(weight.shape, shape, strict=True)]
    weight = weight.float()
    if len(axes) == 1:
        return torch.stack([weight[i] for i in axes[0]])
    return torch.stack([torch.stack([weight[i, j] for j in axes[1]]) for i in axes[0]])


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_llama_element_for_element(tmp_path: Path, shards: int) -> None:
    source = llama()
    torch.manual_seed(3)
    selected = select_weights(TARGET, write(tmp_path / "llama", source, shards))
    torch.manual_seed(3)
    initial = Illama(TARGET).state_dict()
    assert selected.state.keys() == initial.keys()
    for i in range(TARGET.depth):
        theirs = {name.removeprefix(f"model.layers.{i}."): t for name, t in source.items() if f"layers.{i}." in name}
        stacked = torch.cat([theirs[f"self_attn.{name}_proj.weight"] for name in "qkv"])
        names = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attn.proj": "self_attn.o_proj"}
        names |= {"mlp.fc1": "mlp.gate_proj", "mlp.fc2": "mlp.down_proj", "mlp.fc3": "mlp.up_proj"}
        wanted = {"attn.qkv": stacked} | {own: theirs[f"{name}.weight"] for own, name in names.items()}
        for own, weight in wanted.items():
            key = f"blocks.{i}.{own}.weight"
            assert torch.equal(selected.state[key], expected(weight, initial[key].shape)), key
            assert key in selected.taken
    assert len(selected.taken) == 7 * TARGET.depth
    for key in initial.keys() - set(selected.taken):
        assert torch.equal(selected.state[key], initial[key]), key
    Illama(TARGET).load_state_dict(selected.state)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_shared_keys_are_those_of_their_heads(tmp_path: Path, key_heads: int) -> None:
    """A LLaMA whose heads share keys gives what it gives with the keys written out for every head."""
    source = llama(key_heads)
    whole = dict(source)
    for name in (name for name in source if "k_proj" in name or "v_proj" in name):
        by_head = source[name].view(key_heads, DIM // HEADS, DIM)
        whole[name] = by_head.repeat_interleave(HEADS // key_heads, 0).reshape(DIM, DIM)
    one = select_weights(TARGET, write(tmp_path / "shared", source, num_attention_heads=HEADS))
    other = select_weights(TARGET, write(tmp_path / "whole", whole))
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.taken)


def test_illama_element_for_element(tmp_path: Path) -> None:
    large = IllamaConfig(dim=48, depth=3, heads=4, image_size=(32, 32), patch_size=8, classes=7, hidden=64)
    source = Illama(large).state_dict()
    path = tmp_path / "large.safetensors"
    save_checkpoint(path, source, large, Preprocessing(size=(32, 32)))
    selected = select_weights(TARGET, path)  # the same grid of 4 × 4 patches
    for key, tensor in selected.state.items():
        if key.startswith("head."):
            assert key not in selected.taken
            continue
        weight = source[key]
        for axis, count in enumerate(tensor.shape):
            weight = weight.index_select(axis, torch.tensor(pick(weight.shape[axis], count)))
        assert torch.equal(tensor, weight), key
    same = select_weights(large, path).state
    assert all(torch.equal(same[key], source[key]) for key in source if not key.startswith("head."))


def test_another_grid_keeps_the_class_token_s_position() -> None:
    source = read_checkpoint("digits")
    config = IllamaConfig(
        dim=source.config.dim, depth=1, heads=source.config.heads, image_size=(16, 16), channels=1,
        patch_size=source.config.patch_size, hidden=source.config.hidden, classes=3,
    )  # fmt: skip
    positions = select_weights(config, "digits").state["pos_embed"]
    assert positions.shape == (1, config.tokens, config.dim)
    assert torch.equal(positions[:, -1], source.state["pos_embed"][:, -1])


@pytest.mark.parametrize("side", [32, 16])
@pytest.mark.parametrize(("theirs", "ours"), [("first", "last"), ("last", "first"), ("first", "first")])
def test_the_class_token_s_position_moves_with_it(tmp_path: Path, theirs: str, ours: str, side: int) -> None:
    large = replace(TARGET, image_size=(32, 32), patch_size=8, class_token=theirs)
    source, path = Illama(large).state_dict(), tmp_path / "large.safetensors"
    save_checkpoint(path, source, large, Preprocessing(size=(32, 32)))
    target = replace(large, image_size=(side, side), class_token=ours)
    positions = select_weights(target, path).state["pos_embed"]
    assert torch.equal(positions[:, target.class_index], source["pos_embed"][:, large.class_index])
    if side == 32:
        assert torch.equal(positions[:, target.image_tokens], source["pos_embed"][:, large.image_tokens])


PEAK = """
import re, sys, torch
from illama_deploy.checkpoint import select_weights
from illama_deploy.model.illama import Illama, IllamaConfig
config = IllamaConfig(dim=256, depth=2, heads=4, image_size=(32, 32), patch_size=4, classes=10, hidden=512)
target = sum(t.numel() * 4 for t in Illama(config).state_dict().values())
def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = memory("VmRSS")
select_weights(config, sys.argv[1])
print(memory("VmHWM") - before, target)
"""


@pytest.mark.slow
def test_memory_is_bounded_by_one_tensor(tmp_path: Path) -> None:
    """Of a checkpoint of 320 MiB, whose largest tensors have 48: under twice the largest, and the target."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory can be read on Linux only")
    dim, hidden = 1024, 12288
    shapes = {"input_layernorm": (dim,), "post_attention_layernorm": (dim,), "self_attn.o_proj": (dim, dim)}
    shapes |= {f"self_attn.{name}_proj": (dim, dim) for name in "qkv"} | {"mlp.down_proj": (dim, hidden)}
    shapes |= {"mlp.gate_proj": (hidden, dim), "mlp.up_proj": (hidden, dim)}
    folder = tmp_path / "llama"
    write(folder, {f"model.layers.{i}.{name}.weight": torch.ones(s) for i in range(2) for name, s in shapes.items()})
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=True)
    used, target = map(int, done.stdout.split())
    largest = 4 * dim * hidden
    assert used < 2 * largest + target, f"{used / 2**20:.0f} MiB"
    assert used > largest / 2  # the measure measures


def _without_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "1 of 2 shards is missing: model-00002-of-00002"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "weight_map"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), "holds neither"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"12345678{"), "cannot be read"),
        (_without_config, "does not say of how many heads"),
    ],
    ids=["missing shard", "no JSON", "no table", "no index", "damaged shard", "no config"],
)
def test_a_damaged_source_is_one_clear_error(tmp_path: Path, spoil: object, says: str) -> None:
    folder = write(tmp_path / "llama", llama(key_heads=2), num_attention_heads=HEADS)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=says) as caught:
        select_weights(TARGET, folder)
    assert caught.value.hint and caught.value.where is not None


def _index(folder: Path, name: str) -> None:
    path = folder / "model.safetensors.index.json"
    table = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": {**table, "model.layers.0.input_layernorm.weight": name}}))


def _replaced(folder: Path, name: str, tensor: Tensor) -> None:
    for file in folder.glob("*.safetensors"):
        state = load_file(file)
        if name in state:
            save_file(state | {name: tensor}, file)


Q, K = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: _index(f, "../outside.safetensors"), "no file beside it"),
        (lambda f: _index(f, "/outside.safetensors"), "no file beside it"),
        (lambda f: _index(f, ".."), "no file beside it"),
        (lambda f: _index(f, "model-00002-of-00002.safetensors"), "and it is not"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b", "a": "c"}}'), "twice"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 5}}'), "weight_map"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[" * 100_000), "cannot be read"),
        (lambda f: (f / "config.json").write_text('{"num_attention_heads": "8"}'), "num_attention_heads"),
        (lambda f: _replaced(f, Q, torch.ones(DIM)), "on 2 axes"),
        (lambda f: _replaced(f, Q, torch.ones(DIM, DIM).to(torch.int8)), "I8"),
        (lambda f: _replaced(f, Q, torch.full((DIM, DIM), torch.nan)), "NaN"),
        (lambda f: _replaced(f, K, torch.ones(0, DIM)), "2 axes"),
        (lambda f: (f / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 8 + b"{}"), "cannot be read"),
    ],
    ids=["above", "absolute", "dots", "wrong shard", "twice", "number", "deep", "heads", "vector", "integers", "nan",
         "no rows", "long header"],
)  # fmt: skip
def test_a_hostile_source_is_one_clear_error(tmp_path: Path, spoil: object, says: str) -> None:
    folder = write(tmp_path / "llama", llama(key_heads=2), num_attention_heads=HEADS)
    save_file(llama(), tmp_path / "outside.safetensors")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=says) as caught:
        select_weights(TARGET, folder)
    assert caught.value.hint and caught.value.where is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 80}, "selected from a larger network"),
        ({"depth": 4}, "has no model.layers.3"),
        ({"hidden": 101}, "larger"),
    ],
)
def test_a_smaller_source_is_refused(tmp_path: Path, changes: dict[str, int], says: str) -> None:
    fields = {"dim": 24, "depth": 2, "heads": 2, "hidden": 40} | changes
    config = IllamaConfig(**fields, image_size=(16, 16), patch_size=4)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=says):
        select_weights(config, write(tmp_path / "llama", llama()))
    with pytest.raises(CheckpointError, match="larger network"):
        select_weights(IllamaConfig(dim=1024, depth=1, heads=16), "digits")
