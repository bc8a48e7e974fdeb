"""Edits of files that hold tensors: .pth (a zip with a pickle) and safetensors (JSON and bytes)."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .draw import Draw, edit
from .edit_json import edit_tree, strange, write

__all__ = ["PTH", "SAFETENSORS"]


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def zip_member(content: bytes, draw: Draw) -> bytes:
    """A member left out, renamed, repeated, emptied, cut short, damaged, swapped or full of air."""
    members = _members(content)
    names = list(members)
    name, other = draw.rng.choice(names), draw.rng.choice(names)
    body = members.pop(name)
    what = draw.rng.randrange(9)
    deflate = False
    if what == 1:
        members[draw.rng.choice(("x", "../x", "/x", name + "0", name.upper(), "a\0b", name.replace("/", "\\")))] = body
    elif what == 2:
        members[name] = b""
    elif what == 3:
        members[name] = body[: len(body) // 2]
    elif what == 4:
        members[name] = body + bytes(draw.rng.choice((1, 4096, 1 << 24)))
        deflate = True
    elif what == 5:
        damaged = bytearray(body or b"\0")
        damaged[draw.rng.randrange(len(damaged))] ^= 1 << draw.rng.randrange(8)
        members[name] = bytes(damaged)
    elif what == 6:
        members[name], members[other] = members.get(other, b""), body
    elif what == 7:
        members[name] = bytes(1 << 27)
        deflate = True
    elif what == 8:
        members[name] = body
        deflate = True
    return _zip(members, deflate)


def pickle_flip(content: bytes, draw: Draw) -> bytes:
    """A pickle that says something else, in a zip whose sums hold."""
    members = _members(content)
    name = next(name for name in members if name.endswith("data.pkl"))
    damaged = bytearray(members[name])
    for _ in range(draw.rng.randint(1, 3)):
        damaged[draw.rng.randrange(len(damaged))] = draw.rng.randrange(256)
    return _zip({**members, name: bytes(damaged)}, False)


def saved_again(content: bytes, draw: Draw) -> bytes:
    """One value of what was saved is another."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    return _save(_edit_saved(tree, draw))


def saved_tensor(content: bytes, draw: Draw) -> bytes:
    """One tensor is another."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    places = [(p, k) for p, k in _places(tree) if isinstance(p[k], torch.Tensor)]
    parent, key = draw.rng.choice(places)
    parent[key] = _strange_tensor(parent[key], draw)
    return _save(tree)


def runs_code(content: bytes, draw: Draw) -> bytes:
    tree = torch.load(io.BytesIO(content), weights_only=True)
    parent, key = draw.rng.choice(list(_places(tree)))
    touch = Touch(draw.marker)
    if draw.rng.random() < 0.3:
        return pickle.dumps({"model": touch})
    parent[key] = touch
    return _save(tree, legacy=draw.rng.random() < 0.3)


def header(content: bytes, draw: Draw) -> bytes:
    """An edit of a safetensors header."""
    size = int.from_bytes(content[:8], "little")
    try:
        text = write(edit_tree(json.loads(content[8 : 8 + size]), draw), indent=None)
    except (TypeError, AttributeError):
        text = b"{}"
    length = (
        len(text) if draw.rng.random() < 0.9 else draw.rng.choice((0, 1, 2**40, 2**63 - 1, len(text) - 1, len(content)))
    )
    return length.to_bytes(8, "little") + text + content[8 + size :]


def tensors_again(content: bytes, draw: Draw) -> bytes:
    """Another safetensors file: tensors left out, renamed, of other shapes and values."""
    from safetensors.torch import load, save

    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__")
    tensors = load(content)
    name = draw.rng.choice(list(tensors))
    what = draw.rng.randrange(8)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[draw.rng.choice(("x", "", name + ".x", "blocks.9999999.x", "module." + name, name.upper()))] = (
            tensors.pop(name)
        )
    elif what == 2:
        tensors[draw.rng.choice(("x", "blocks.9999999.norm1.weight", "blocks.-1.x", "blocks.1e9.x", "head.x"))] = (
            torch.ones(1)
        )
    elif what == 3:
        tensors = {f"{draw.rng.choice(('module.', 'model.', '_orig_mod.'))}{key}": t for key, t in tensors.items()}
    else:
        changed = _strange_tensor(tensors[name], draw)
        if isinstance(changed, torch.Tensor) and not changed.is_sparse and changed.numel() < 1 << 22:
            tensors[name] = changed.contiguous().clone()
    if metadata and draw.rng.random() < 0.3:
        metadata = {key: str(value) for key, value in metadata.items()}
        key = draw.rng.choice(list(metadata))
        metadata[key] = draw.rng.choice((metadata[key][:-1], "", "{}", "[" * 20_000, write(strange(draw)).decode()))
    return save({key: t.contiguous() for key, t in tensors.items()}, metadata)


def _strange_tensor(tensor: torch.Tensor, draw: Draw) -> Any:
    flat = tensor.flatten()
    pool: list[Callable[[], Any]] = [
        tensor.double, tensor.half, lambda: tensor.to(torch.int8), tensor.bool,
        lambda: tensor.to(torch.complex64), lambda: tensor[None], lambda: flat, lambda: tensor[..., :0],
        lambda: tensor[..., :-1], lambda: torch.cat([flat, flat]), lambda: tensor.transpose(0, -1),
        lambda: torch.ones(()),
        lambda: torch.zeros_like(tensor), lambda: -tensor, lambda: torch.full_like(tensor.float(), float("nan")),
        lambda: torch.full_like(tensor.float(), float("inf")), lambda: torch.full_like(tensor.float(), 1e38),
        lambda: torch.zeros(1).expand(1 << 14, 1 << 14), lambda: torch.zeros(1).expand(tensor.shape),
        lambda: torch.empty(0), lambda: tensor.float().to_sparse(), lambda: torch.zeros(1, dtype=torch.uint8),
        lambda: tensor.float().mul(1e30), lambda: tensor.float() * 0 + 1e-45,
    ]  # fmt: skip
    try:
        return draw.rng.choice(pool)()
    except (RuntimeError, IndexError):
        return torch.empty(0)


def _edit_saved(tree: Any, draw: Draw) -> Any:
    parent, key = draw.rng.choice(list(_places(tree)))
    value = parent[key]
    what = draw.rng.randrange(5)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, dict):
        name = draw.rng.choice((f"{key}x", f"module.{key}", "", 0, None, ("a", 1), f"blocks.9999999.{key}"))
        parent[name] = parent.pop(key)
    elif what == 2:
        return draw.rng.choice((tree.get("model"), {"module": tree}, {"state_dict": tree}, [tree], {**tree,
        "model_ema": {}},
                                {"a": {"b": {"c": tree}}}, (tree,), {"model": tree, "model_ema": tree}))  # fmt: skip
    else:
        parent[key] = (
            _strange_tensor(value, draw) if isinstance(value, torch.Tensor) and draw.rng.random() < 0.7
            else strange(draw, value if isinstance(value, int | float | str | list) else None)
        )  # fmt: skip
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        found += [(tree, key), *_places(value)]
    return found


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(members: dict[str, bytes], deflate: bool) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


def _save(tree: Any, *, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


PTH = tuple(
    edit(change, whole=True) for change in (zip_member, pickle_flip, saved_again, saved_again, saved_tensor, runs_code)
)
SAFETENSORS = (edit(header, whole=True), edit(tensors_again, whole=True), edit(tensors_again, whole=True))
