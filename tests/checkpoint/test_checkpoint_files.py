"""Checkpoint files as trainers write them, and as somebody who means no good might."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copyreg
import datetime
import functools
import io
import json
import os
import pathlib
import pickle
import random
import re
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from illama_deploy import CheckpointError, DeployError, UsageError, load_checkpoint
from illama_deploy.checkpoint import read_checkpoint, save_checkpoint
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing

State = dict[str, Tensor]
CONFIG = IllamaConfig(dim=64, depth=2, heads=1, image_size=(16, 16), patch_size=4, channels=1, classes=5, hidden=32)
PREPROCESSING = Preprocessing(size=(16, 16), mean=(0.5,), std=(0.5,))


def weights(seed: int) -> State:
    torch.manual_seed(seed)
    return Illama(CONFIG).state_dict()


A, B = weights(1), weights(2)


def under(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def same(path: Path, state: State, **options: Any) -> bool:
    read = read_checkpoint(path, **options).state
    return read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


# --- what trainers write ---------------------------------------------------------------------------------------------


def authors_file(path: Path) -> Illama:
    """What the authors' training loop writes after an update: every part of it is made by what made theirs."""
    torch.manual_seed(1)
    model = Illama(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    # Their schedule is a numpy array, indexed by update.
    for group in optimizer.param_groups:
        group["lr"] = np.linspace(0, 4e-3, 10)[3]
        assert type(group["lr"]) is np.float64
    model(torch.randn(2, 1, 16, 16)).sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    arguments = argparse.Namespace(model="illama_tiny", lr=4e-3, betas=(0.9, 0.999), output_dir="out", model_ema=False)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save({**content, "scaler": scaler.state_dict(), "args": arguments}, path)
    return model.eval()


def test_the_authors_own_file(tmp_path: Path) -> None:
    model = authors_file(tmp_path / "checkpoint-3.pth")
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    images = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        loaded = load_checkpoint(tmp_path / "checkpoint-3.pth")(images)
        assert torch.equal(loaded, model(images))
        assert torch.equal(loaded, load_checkpoint(tmp_path / "bare.pth")(images))


def in_one_storage(state: State) -> State:
    """The tensors as parts of one buffer, as fully sharded training keeps them."""
    parts = torch.cat([tensor.flatten() for tensor in state.values()]).split([t.numel() for t in state.values()])
    return {key: part.view(state[key].shape) for key, part in zip(state, parts, strict=True)}


def itself(content: dict[str, Any]) -> dict[str, Any]:
    content["itself"] = content
    return content


PLAIN: dict[str, Any] = {
    "deepspeed": {
        "module": A,
        "optimizer": None,
        "ds_version": "0.16",
        "param_shapes": [{"head.bias": torch.Size([5])}],
    },
    "deepspeed-in-ddp": {"module": under("module.", A)},
    "nested": {"checkpoint": {"model": A}},
    "fsdp-in-blocks": {
        "model": {f"_fsdp_wrapped_module.{k.replace('.attn', '._fsdp_wrapped_module.attn')}": v for k, v in A.items()}
    },
    "compiled-blocks": {"model": {k.replace(".attn", "._orig_mod.attn"): v for k, v in A.items()}},
    "lightning": {"state_dict": {**under("model.", A), "criterion.weight": torch.ones(5)}, "hyper_parameters": {}},
    "numpy-scalars": {"model": A, "best": np.float64(81.2), "step": np.int64(3), "flag": np.bool_(True)},
    "numpy-random-state": {"model": A, "rng": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
    "paths-and-dates": {
        "model": A,
        "args": argparse.Namespace(out=pathlib.PurePosixPath("/x"), when=datetime.datetime(2026, 1, 1), d={1, 2}),
    },
    "default-dictionary": {"model": A, "optimizer": collections.defaultdict(dict, {"a": {1: 2}})},
    "parameters": {"model": {key: torch.nn.Parameter(tensor) for key, tensor in A.items()}},
    "one-storage": {"model": in_one_storage(A)},
    "transposed": {"model": {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in A.items()}},
    "types": {"model": A, "dtype": torch.bfloat16, "device": torch.device("cpu")},
    "self-reference": itself({"model": A}),
    "the same twice": {"model": A, "state_dict": dict(A)},
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_trainers_save(kind: str, legacy: bool, tmp_path: Path) -> None:
    torch.save(PLAIN[kind], tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert same(tmp_path / "x.pth", A)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(protocol: int, tmp_path: Path) -> None:
    torch.save({"model": A, "lr": np.float64(1)}, tmp_path / "x.pth", pickle_protocol=protocol)
    assert same(tmp_path / "x.pth", A)


def test_the_kind_is_in_the_first_bytes(tmp_path: Path) -> None:
    torch.save(A, tmp_path / "pytorch_model.safetensors")
    save_file(A, tmp_path / "model.pth")
    assert same(tmp_path / "pytorch_model.safetensors", A) and same(tmp_path / "model.pth", A)


# --- several sets of weights -----------------------------------------------------------------------------------------

PAIRS: dict[str, Any] = {
    "timm": {"arch": "illama_tiny", "state_dict": A, "state_dict_ema": B},
    "model_ema": {"model_ema": under("module.", B), "model": A},
    "lightning, ema first": {"state_dict": {**under("ema_model.", B), **under("model.", A)}},
    "lightning, ema last": {"state_dict": {**under("model.", A), **under("ema_model.", B)}},
    "ema-pytorch": {**under("online_model.", A), **under("ema_model.", B), "initted": torch.tensor(True)},
    "params": {"params": A, "params_ema": B},
    "swa": {"model": A, "swa_model": {**under("module.", B), "n_averaged": torch.tensor(5)}},
    "n_averaged": {"model": A, "second": {**under("module.", B), "n_averaged": torch.tensor(5)}},
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", PAIRS)
def test_trained_and_averaged_weights(kind: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, content = tmp_path / f"x{suffix}", PAIRS[kind]
    if suffix == ".pth":
        torch.save(content, path)
    elif all(isinstance(value, Tensor) for value in content.values()):
        save_file(content, path)
    else:
        pytest.skip("no flat file")
    assert same(path, A) and same(path, B, ema=True)
    chosen, averaged = (record.message for record in caplog.records if "left aside" in record.message)
    assert "averaged" in averaged and "averaged" not in chosen
    assert read_checkpoint(path).weights != read_checkpoint(path, ema=True).weights


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({**under("module.", A), **under("model.", B)}, ("'module.'", "'model.'")),
        ({"student": A, "teacher": B}, ("'student'", "'teacher'")),
        ({"model": A, "state_dict": B}, ("'model'", "'state_dict'")),
        ({**A, **under("module.", B)}, ("the file's own", "'module.'")),
    ],
    ids=["prefixes", "student-teacher", "keys", "bare"],
)
def test_two_networks_are_named_and_none_is_taken(content: Any, names: tuple[str, str], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="2 sets of weights") as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert all(name in caught.value.what for name in names)


def test_two_averages_are_named_too(tmp_path: Path) -> None:
    torch.save({"model": A, "ema_fast": B, "ema_slow": A | {"head.bias": B["head.bias"]}}, tmp_path / "x.pth")
    assert same(tmp_path / "x.pth", A)
    with pytest.raises(CheckpointError, match="2 sets of averaged weights: 'ema_fast', 'ema_slow'"):
        read_checkpoint(tmp_path / "x.pth", ema=True)


def test_a_key_wrapped_and_unwrapped(tmp_path: Path) -> None:
    torch.save({**A, "blocks.0._orig_mod.attn.qkv.bias": B["blocks.0.attn.qkv.bias"]}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"Two of its tensors are blocks\.0\.attn\.qkv\.bias"):
        read_checkpoint(tmp_path / "x.pth")


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"state_dict": {**under("net.", A), "criterion.weight": torch.ones(3)}}, tmp_path / "x.pth")
    assert same(tmp_path / "x.pth", A)
    assert "left out: criterion.weight" in caplog.text


def test_averages_alone_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"model_ema": A}, tmp_path / "x.pth")
    assert same(tmp_path / "x.pth", A)
    assert "averaged" in caplog.text


def test_no_average_in_safetensors_either(tmp_path: Path) -> None:
    save_file(A, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no averaged"):
        read_checkpoint(tmp_path / "x.safetensors", ema=True)


# --- pickles that want to run something ------------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def _writes(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def _nested_load(path: Path) -> Call:
    inner = io.BytesIO()
    torch.save(Call(exec, _writes(path)), inner)
    return Call(torch.storage._load_from_bytes, inner.getvalue())


def _numpy_reconstruct(path: Path) -> bytes:
    """An array whose contents are the result of a call."""
    array = np.empty(1, dtype=object)
    array[0] = Call(exec, _writes(path))
    return pickle.dumps({"model": A["head.bias"].tolist(), "rng": array}, 2)


def _dotted(path: Path) -> bytes:
    """`os.system`, reached through a module of torch that imports os."""
    command = f"touch {path}".encode()
    name = b"\x8c\x13torch.serialization\x8c\x09os.system\x93"
    return b"\x80\x04" + name + b"\x8c" + bytes([len(command)]) + command + b"\x85R."


MALICIOUS: dict[str, Callable[[Path], bytes]] = {
    "os.system by REDUCE": lambda p: pickle.dumps({"a": Call(os.system, f"touch '{p}'")}, 2),
    "builtins.exec": lambda p: pickle.dumps({"a": Call(exec, _writes(p))}, 2),
    "STACK_GLOBAL": lambda p: pickle.dumps({"a": Call(eval, _writes(p))}, 5),
    "subprocess": lambda p: pickle.dumps({"a": Call(subprocess.call, ["touch", str(p)])}, 3),
    "INST": lambda p: b"(S'touch " + str(p).encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda p: b"(cos\nsystem\nS'touch " + str(p).encode() + b"'\no.",
    "nested in numpy's reconstruct": _numpy_reconstruct,
    "a lazy map in a list": lambda p: pickle.dumps(Call(list, Call(map, os.mkdir, [str(p)])), 4),
    "functools.partial as a default factory": lambda p: pickle.dumps(
        Call(list, Call(map, functools.partial(os.mkdir, str(p)), [0o700])), 2
    ),
    "BUILD of attributes, then a call": lambda p: pickle.dumps((argparse.Namespace(a=1), Call(exec, _writes(p))), 2),
    "a pickle inside a storage's bytes": lambda p: pickle.dumps({"a": _nested_load(p)}, 2),
    "a dotted name": _dotted,
    "a dictionary's factory": lambda p: pickle.dumps({"d": Call(print, Call(exec, _writes(p)))}, 2),
    "a key": lambda p: b"\x80\x02}" + pickle.dumps(Call(exec, _writes(p)), 2)[2:-1] + b"K\x01s.",
}  # fmt: skip


def archive(path: Path, data: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    """A zip archive as `torch.save` lays it out (`__` in a name stands for a slash)."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **members}.items():
            file.writestr(f"archive/{name.replace('__', '/')}", content)
    return path


@pytest.mark.parametrize("container", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_pickles_run_nothing(kind: str, container: str, tmp_path: Path) -> None:
    control, canary, path = tmp_path / "control", tmp_path / "canary", tmp_path / "evil.pth"
    with contextlib.suppress(TypeError):
        pickle.loads(MALICIOUS[kind](control))
    assert control.exists()  # it does what it says where a pickle is simply loaded
    data = MALICIOUS[kind](canary)
    if container == "zip":
        archive(path, data)
    elif container == "legacy":
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(head + data + pickle.dumps([], 2))
    else:
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match="wants to run code") as caught:
        read_checkpoint(path)
    assert caught.value.hint
    assert not canary.exists()


def test_other_containers_of_code(tmp_path: Path) -> None:
    """A TorchScript archive, a persistent id, an extension code, and a name that only looks like a tensor's."""
    canary = tmp_path / "canary"
    archive(tmp_path / "script.pth", pickle.dumps({}), code__main=b"import os", constants=b"")
    archive(tmp_path / "persid.pth", b"Pos.system\n.")
    archive(tmp_path / "binpersid.pth", pickle.dumps(("module", os.system, "x"), 2)[:-1] + b"Q.")
    copyreg.add_extension("os", "system", 240)
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # fills the cache that an unpickler would take it from
        archive(tmp_path / "extension.pth", b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R.")
        archive(
            tmp_path / "lookalike.pth", b"\x80\x02ctorch._utils\n_import_dotted_name\nX\x09\x00\x00\x00os.system\x85R."
        )
        for name in ("script", "persid", "binpersid", "extension", "lookalike"):
            with pytest.raises(CheckpointError, match="wants to run code"):
                read_checkpoint(tmp_path / f"{name}.pth")
    finally:
        copyreg.remove_extension("os", "system", 240)
    assert not canary.exists()


def test_a_tar_archive(tmp_path: Path) -> None:
    import tarfile

    data = pickle.dumps({"a": Call(exec, _writes(tmp_path / "canary"))}, 2)
    with tarfile.open(tmp_path / "old.pth", "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with pytest.raises(CheckpointError, match="Not a readable"):
        read_checkpoint(tmp_path / "old.pth")
    assert not (tmp_path / "canary").exists()


def test_names_that_are_passed_over_import_nothing(tmp_path: Path) -> None:
    """numpy's and others' values are not built: their modules would not even have to be there."""
    torch.save({"model": A, "config": Call(print)}, tmp_path / "x.pth")
    data = zipfile.ZipFile(tmp_path / "x.pth")
    changed = {info.filename: data.read(info) for info in data.infolist()}
    name = next(name for name in changed if name.endswith("data.pkl"))
    changed[name] = changed[name].replace(b"c__builtin__\nprint\n", b"ceasydict\nEasyDict\n")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        for key, value in changed.items():
            file.writestr(key, value)
    assert same(tmp_path / "x.pth", A)
    assert "easydict" not in sys.modules


# --- files that unfold ----------------------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Little more than the process has: what unfolds ends in MemoryError, and not on the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def flat(state: State) -> tuple[dict[str, Any], bytes]:
    """A safetensors header's entries, and the data."""
    entries, data = {}, b""
    for key, tensor in state.items():
        content = tensor.numpy().tobytes()
        entries[key] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    return entries, data


def empty(name: str) -> dict[str, Any]:
    return {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}


def call(name: str, *arguments: Any) -> bytes:
    """A pickle that calls a name."""
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."


def _expanded() -> dict[str, Any]:
    many = {"head.weight": torch.zeros(1, 1).expand(10**7, 64), "head.bias": torch.zeros(1).expand(10**7)}
    return {"model": {**A, **many}}


def _many_tokens() -> State:
    return {**A, "pos_embed": torch.zeros(1, 300 * 300 + 1, 64, dtype=torch.float16)}


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "a far block": lambda p: p.write_bytes(header({**empty("blocks.9999999.x"), **flat(A)[0]}, flat(A)[1])),
    "many empty blocks": lambda p: p.write_bytes(
        header({**{f"blocks.{i}.x": empty("")[""] for i in range(15_000)}, **flat(A)[0]}, flat(A)[1])
    ),
    "a long header": lambda p: p.write_bytes(struct.pack("<Q", 2**40) + b"{"),
    "a header of spaces": lambda p: p.write_bytes(struct.pack("<Q", 90_000_000) + b"{" + b" " * 89_999_998 + b"}"),
    "a deep header": lambda p: p.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000),
    "a number of many digits": lambda p: p.write_bytes(header({"a": 10**4000})),
    "a stride of zero": lambda p: torch.save(_expanded(), p),
    "a stride of zero, legacy": lambda p: torch.save(_expanded(), p, _use_new_zipfile_serialization=False),
    "tokens without end": lambda p: torch.save(_many_tokens(), p),
    "bytearray": lambda p: archive(p, call("__builtin__.bytearray", 10**11)),
    "an allocating tensor": lambda p: archive(p, call("torch.Tensor", 10**11)),
    "a storage of any size": lambda p: archive(p, call("torch.storage.UntypedStorage", 10**12)),
    "a bomb in the pickle": lambda p: archive(p, b"\x80\x02" + bytes(2**26), compression=zipfile.ZIP_DEFLATED),
    "a bomb in a tensor": lambda p: archive(p, b"N.", compression=zipfile.ZIP_DEFLATED, data__0=bytes(2**26)),
    "lists and lists": lambda p: archive(p, b"\x80\x02" + b"]" * 2_500_000 + b"."),
    "marks and marks": lambda p: archive(p, b"\x80\x02" + b"(" * 2_500_000 + b"."),
    "sets and sets": lambda p: archive(p, b"\x80\x04" + b"\x8f" * 2_000_000 + b"."),
    "bytes of any length": lambda p: archive(p, b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b"."),
    "a buffer of any length": lambda p: archive(p, b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"."),
    "a frame of any length": lambda p: archive(p, b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"."),
    "a far memo": lambda p: archive(p, b"\x80\x02}r\xff\xff\xff\xff."),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.usefixtures("little_memory")
def test_files_that_unfold(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    HOSTILE[kind](path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.hint and len(str(caught.value)) < 2_000


@pytest.mark.parametrize("place", ["fifo", "device", "directory"])
def test_what_is_no_file(place: str, tmp_path: Path) -> None:
    path = {"fifo": tmp_path / "x.pth", "device": Path("/dev/zero"), "directory": tmp_path}[place]
    if place == "fifo":
        os.mkfifo(path)
    with pytest.raises(CheckpointError, match="directory" if place == "directory" else "no regular file"):
        read_checkpoint(path)


ODD: dict[str, Callable[[Tensor], Any]] = {
    "sparse": lambda t: t.to_sparse(),
    "sparse-csr": lambda t: t.to_sparse_csr(),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "meta": lambda t: t.to("meta"),
    "complex": lambda t: t.to(torch.complex64),
    "nested": lambda t: torch.nested.nested_tensor([t[0], t[1]]),
    "integers": lambda t: t.to(torch.int8),
    "booleans": lambda t: t > 0,
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "uint16": lambda t: t.to(torch.uint16),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_weights(kind: str, tmp_path: Path) -> None:
    torch.save({"model": {**A, "head.weight": ODD[kind](A["head.weight"])}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"head\.weight") as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert "run code" not in str(caught.value)


def test_odd_tensors_beside_the_weights_do_not_matter(tmp_path: Path) -> None:
    others = {kind: make(A["head.weight"]) for kind, make in ODD.items() if kind not in ("quantized", "nested")}
    torch.save({"model": A, "others": others}, tmp_path / "x.pth")
    assert same(tmp_path / "x.pth", A)


def test_one_tensor_under_two_keys(tmp_path: Path) -> None:
    torch.save({**A, "blocks.1.norm1.weight": A["blocks.0.norm1.weight"]}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="are one tensor in the file"):
        read_checkpoint(tmp_path / "x.pth")


# --- checksums and seals ---------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_any_tensor_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": A, "optimizer": {"state": {0: B}}}, path)
    whole = path.read_bytes()
    wanted = A["blocks.1.mlp.fc2.weight"].numpy().tobytes()
    place = whole.index(wanted) + len(wanted) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(path)


def sealed(path: Path) -> Path:
    save_checkpoint(path, A, CONFIG, PREPROCESSING, classes=list("abcde"), data="digits", force=True)
    return path


def test_the_seal_covers_tensors_and_metadata(tmp_path: Path) -> None:
    path = sealed(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    assert same(path, A)
    for old, new in ((b'\\"heads\\": 1', b'\\"heads\\": 2'), (b'\\"b\\", \\"c', b'\\"c\\", \\"b'), (b"0.5", b"0.4")):
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(CheckpointError, match="altered after it was written"):
            read_checkpoint(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="altered after it was written"):
        read_checkpoint(path)


def test_our_metadata_without_a_seal(tmp_path: Path) -> None:
    save_file(A, tmp_path / "x.safetensors", {"illama_deploy": json.dumps({"heads": 1, "classes": list("abcde")})})
    with pytest.raises(CheckpointError, match="altered after it was written"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_a_key_twice_in_a_header(tmp_path: Path) -> None:
    entries, data = flat(A)
    text = json.dumps(entries).encode()
    text = text[:-1] + b', "head.bias": ' + json.dumps(entries["norm.weight"]).encode() + b"}"
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(CheckpointError, match="twice"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_same_network_same_bytes(tmp_path: Path) -> None:
    assert sealed(tmp_path / "a.safetensors").read_bytes() == sealed(tmp_path / "b.safetensors").read_bytes()


def test_no_place_of_this_machine_is_kept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", A, CONFIG, PREPROCESSING, data="folder:/home/me/images")
    assert b"/home/me" not in (tmp_path / "x.safetensors").read_bytes()
    torch.save({"model": A, "illama_deploy": {"data": "timm:wds/x?root=pipe:touch x"}}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.data is None and checkpoint.trained_on == "timm:wds/x?root=pipe:touch x"
    assert read_checkpoint(sealed(tmp_path / "y.safetensors")).data == "digits"


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"preprocessing": {"size": [8, 8], "mean": [0.5], "std": [0.5]}}, "images of 8×8"),
        ({"preprocessing": {"size": [16, 16]}}, "3 channels"),
        ({"preprocessing": {"size": [16, 16], "mean": [0.5], "std": [0.5], "crop": 1e-9}}, "crop"),
        ({"preprocessing": {"size": [16, 16], "mean": [0.5], "std": [1e-30]}}, "deviations"),
        ({"preprocessing": {"size": [16.5, 16], "mean": [0.5], "std": [0.5]}}, "size"),
        ({"preprocessing": {"size": [16, 16], "mean": ["0.5"], "std": [0.5]}}, "mean"),
        ({"preprocessing": {"size": [16, 16], "mean": [0.5], "std": [0.5], "crop_mode": ["center"]}}, "crop_mode"),
        ({"preprocessing": {"size": [10**9, 10**9], "mean": [0.5], "std": [0.5]}}, "size"),
        ({"heads": True}, "heads"),
        ({"heads": 10**30}, "heads"),
        ({"image_size": [16, 16, 16]}, "image_size"),
        ({"image_size": [32, 32]}, "32×32"),
        ({"image_size": [-16, -16]}, "16"),
        ({"classes": ["a"]}, "1 classes"),
        ({"classes": ["a", "b", "c", "d", 5]}, "classes"),
        ({"variation": {"dim": "64"}}, "dim"),
        ({"variation": {"mask": "any"}}, "mask"),
        ({"data": ["digits"]}, "data"),
        ({"mood": 1}, "mood"),
        ([1], "list"),
    ],
)  # fmt: skip
def test_metadata_that_fits_no_network(metadata: Any, says: str, tmp_path: Path) -> None:
    torch.save({"model": A, "illama_deploy": metadata}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert says in caught.value.what


# --- the trained size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 8), (8, 32), (24, 12), (32, 16)])
def test_image_size_is_where_to_go_not_where_it_came_from(size: tuple[int, int], tmp_path: Path) -> None:
    torch.save({"model": A}, tmp_path / "plain.pth")
    plain = read_checkpoint(tmp_path / "plain.pth", image_size=size)
    own = read_checkpoint(sealed(tmp_path / "own.safetensors"), image_size=size)
    assert torch.equal(plain.state["pos_embed"], own.state["pos_embed"])
    assert plain.state["pos_embed"].shape != A["pos_embed"].shape or not torch.equal(
        plain.state["pos_embed"], A["pos_embed"]
    )


def test_an_oblong_grid_says_what_to_type(tmp_path: Path) -> None:
    config = IllamaConfig(dim=64, depth=1, heads=1, image_size=(8, 24), patch_size=4, classes=2)
    state = Illama(config).state_dict()
    torch.save(state, tmp_path / "x.pth")
    for options in ({}, {"image_size": (16, 16)}):
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(tmp_path / "x.pth", **options)  # type: ignore[arg-type]
        assert "8x24" in str(caught.value.hint) and "`image_size" in str(caught.value.hint)
    assert read_checkpoint(tmp_path / "x.pth", image_size=(8, 24)).config == config


@pytest.mark.parametrize("size", [8, (8, 8), [8, 8]])
def test_sizes_from_python(size: Any, tmp_path: Path) -> None:
    torch.save(A, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth", image_size=size)(torch.zeros(1, 1, 8, 8)).shape == (1, 5)
    assert load_checkpoint(str(tmp_path / "x.pth"), image_size=32).config.image_size == (32, 32)


@pytest.mark.parametrize("size", [0, -8, 8.0, "8", (8,), (8, 8, 8), (8, "8"), True])
def test_what_is_no_size(size: Any, tmp_path: Path) -> None:
    torch.save(A, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=r"image.size"):
        load_checkpoint(tmp_path / "x.pth", image_size=size)


def test_heads_that_contradict_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 heads, and 2"):
        read_checkpoint(sealed(tmp_path / "x.safetensors"), heads=2)


def test_a_size_whose_masks_fit_no_memory() -> None:
    with pytest.raises(CheckpointError, match="GiB") as caught:
        read_checkpoint("digits", image_size=4096)
    assert "`image_size" in str(caught.value.hint)


# --- mutants ---------------------------------------------------------------------------------------------------------


def _base(kind: str, folder: Path) -> Path:
    path = folder / f"base{'.pth' if kind in ('zip', 'legacy') else '.safetensors'}"
    if kind == "sealed":
        return sealed(path)
    if kind == "plain":
        save_file(A, path)
    else:
        content = {"model": A, "optimizer": {"lr": np.float64(1)}, "args": argparse.Namespace(lr=1e-3)}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One damage: flipped bits, a part cut out, doubled or overwritten, a number in text replaced, an end cut off."""
    # Half of them where files say what they are: at the beginning and at the end.
    edge = draw.random() < 0.7
    place = draw.choice((draw.randrange(min(len(data), 3000)), len(data) - 1 - draw.randrange(min(len(data), 3000))))
    place = place if edge else draw.randrange(len(data))
    length = draw.choice((1, 1, 2, 4, 8, 64))
    match draw.randrange(7):
        case 0:
            return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        case 1:
            return data[:place]
        case 2:
            return data[:place] + data[place + length :]
        case 3:
            return data[:place] + data[place : place + length] + data[place:]
        case 4:
            return data[:place] + draw.randbytes(length) + data[place + length :]
        case 5:
            filler = draw.choice((b"\xff", b"\x00", b"]", b"(", b"9", b"-")) * length
            return data[:place] + filler + data[place + length :]
        case _:
            found = draw.choice(list(re.finditer(rb"\d+", data[:20_000])))
            new = draw.choice((b"0", b"-1", b"99999999999", b"1e400", b"null", b'"a"', b"[]", b"1.5", b"%d" % 2**64))
            return data[: found.start()] + new + data[found.end() :]


def check_mutant(kind: str, path: Path, mutant: bytes) -> bool:
    """Read a mutant: it is refused in words, or is what it was. Returns whether it was accepted."""
    path.write_bytes(mutant)
    try:
        read = read_checkpoint(path)
    except DeployError as error:
        assert error.hint and len(str(error)) < 3_000
        return False
    if kind in ("zip", "sealed"):  # the others carry nothing that would tell
        assert all(torch.equal(read.state[key], A[key]) for key in A) and read.state.keys() == A.keys()
        assert kind == "zip" or (read.classes, read.preprocessing) == (tuple("abcde"), PREPROCESSING)
    return True


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["zip", "legacy", "sealed", "plain"])
def test_mutants(kind: str, tmp_path: Path) -> None:
    base = _base(kind, tmp_path)
    data, path = base.read_bytes(), base.with_stem("mutant")
    for seed in range(40):
        check_mutant(kind, path, mutate(data, random.Random(f"{kind}{seed}")))


JUNK: tuple[Any, ...] = (None, "", "x", -1, 2**70, float("nan"), [], {}, (), torch.ones(0), torch.ones(2, 3), True)


def test_mutants_of_what_a_pickle_holds(tmp_path: Path) -> None:
    """Every entry, and every field of our metadata, replaced by what it is not."""
    metadata = {"heads": 1, "image_size": (16, 16), "classes": list("abcde"), "preprocessing": PREPROCESSING.to_dict()}
    draw = random.Random(0)
    for number in range(50):
        state, about = dict(A), {**metadata, "preprocessing": PREPROCESSING.to_dict()}
        content: dict[Any, Any] = {"model": state, "illama_deploy": about, "epoch": 1}
        table = draw.choice((state, state, about, about["preprocessing"], content))
        key = draw.choice(list(table))
        table[draw.choice((key, key, f"{key}.x", 5))] = draw.choice(JUNK)
        torch.save(content, tmp_path / f"{number}.pth")
        try:
            assert read_checkpoint(tmp_path / f"{number}.pth").config == CONFIG
        except DeployError as error:
            assert error.hint or error.where


def test_names_cannot_do_anything_to_a_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({**under("model.", A), "\x1b[2Jloss\nerror: none": torch.ones(1)}, tmp_path / "x.pth")
    assert same(tmp_path / "x.pth", A)
    assert "\x1b" not in caplog.records[0].getMessage() and "\n" not in caplog.records[0].getMessage()


def test_saved_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": A}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError, match="without checksums"):
        read_checkpoint(tmp_path / "x.pth")
