"""Weight selection: start a network with evenly spaced weights of a larger one, iLLaMA or LLaMA.

Along each axis, every n-th element where sizes divide, else the elements nearest to even spacing. Of an iLLaMA
everything but the head is taken; of a LLaMA the first layers' norms, attention (q, k and v stacked as in `qkv`, then
selected) and FFN, and the rest stays as it was initialised.
Sources: Z. Xu et al., *Initializing Models with Larger Ones*, ICLR 2024; the iLLaMA authors' script for LLaMA 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model.illama import Illama, IllamaConfig
from ..progress import track
from .geometry import interpolate_positions
from .load import read_checkpoint

__all__ = ["Selected", "evenly_spaced", "select_weights"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: What iLLaMA calls parts of a block to what Hugging Face's LLaMA calls parts of a layer.
PARTS = {
    "norm1.weight": ("input_layernorm.weight",),
    "norm2.weight": ("post_attention_layernorm.weight",),
    "attn.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.proj.weight": ("self_attn.o_proj.weight",),
    "mlp.fc1.weight": ("mlp.gate_proj.weight",),
    "mlp.fc2.weight": ("mlp.down_proj.weight",),
    "mlp.fc3.weight": ("mlp.up_proj.weight",),
}
BLOCK_KEY = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Selected:
    """An initialised network.

    Attributes:
        state: its complete state dict, float32.
        taken: the keys that come from the larger network; the others are as `Illama` initialises them.
    """

    state: dict[str, Tensor]
    taken: tuple[str, ...]


def evenly_spaced(size: int, count: int) -> Tensor:
    """Positions of `count` of `size` elements, int64 [count]."""
    if size % count == 0:
        return torch.arange(count) * (size // count)
    # In float32, as the authors have it: another precision may round to a neighbour.
    return torch.round(torch.linspace(0, size - 1, count)).long()


def select_weights(config: IllamaConfig, source: str | Path, *, heads: int | None = None) -> Selected:
    """Initialise a network from a larger one.

    Args:
        config: of the network to make.
        source: an iLLaMA checkpoint; or LLaMA in Hugging Face's format, as a directory, its index, or one
            `.safetensors` file. Of the latter no more than one tensor is in memory at a time.
        heads: of an iLLaMA, as in `read_checkpoint`.

    Raises:
        CheckpointError: it cannot be read, a shard or a tensor is missing, or it is smaller along some axis.
    """
    path = Path(source)
    state = Illama(config).state_dict()
    llama = _open_llama(path)
    taken = _from_illama(state, config, path, heads) if llama is None else _from_llama(state, llama)
    return Selected(state, taken)


def _select(weight: Tensor, target: Tensor, name: str, where: Path) -> None:
    """Fill `target` with evenly spaced elements of `weight`."""
    _require_larger(weight.shape, target.shape, name, where)
    for axis, (size, count) in enumerate(zip(weight.shape, target.shape, strict=True)):
        if size != count:
            weight = weight.index_select(axis, evenly_spaced(size, count))
    target.copy_(weight)


def _require_larger(shape: Sequence[int], wanted: Sequence[int], name: str, where: Path) -> None:
    if len(shape) != len(wanted) or any(size < count for size, count in zip(shape, wanted, strict=True)):
        raise CheckpointError(
            f"Weights are selected from a larger network; here {name} is {list(shape)}, and {list(wanted)} is needed.",
            where=where,
            hint="Take a larger source, or a smaller network.",
        )


def _from_illama(state: dict[str, Tensor], config: IllamaConfig, path: Path, heads: int | None) -> tuple[str, ...]:
    source = read_checkpoint(path, heads=heads)
    wanted = tuple(key for key in state if not key.startswith("head."))
    for key in wanted:
        weight = source.state.get(key)
        if weight is None:
            raise _missing(key, path)
        if key == "pos_embed":
            weight = interpolate_positions(weight, source.config.grid, config.grid)
        _select(weight, state[key], key, path)
    return wanted


@dataclass(frozen=True)
class _Llama:
    """A LLaMA in Hugging Face's format.

    Attributes:
        files: tensor name to the file that holds it.
        prefix: of the names of layers.
        settings: what `config.json` says, or nothing.
    """

    path: Path
    files: Mapping[str, Path]
    prefix: str
    settings: Mapping[str, Any]

    def name(self, layer: str, part: str) -> str:
        """Name of a layer's tensor."""
        return f"{self.prefix}layers.{layer}.{part}"

    def read(self, name: str) -> Tensor:
        """Read a tensor; each time the file is opened anew, so that pages of tensors read before are let go."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.files[name], framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{name} cannot be read: {error}.", where=self.files[name], hint="It may be cut short; copy it again."
            ) from error


def _open_llama(path: Path) -> _Llama | None:
    """Look into what may be a LLaMA; None where it is no directory and no file with a LLaMA's names."""
    if path.name.endswith(".index.json"):
        index = path
    elif path.is_dir():
        index = path / INDEX if (path / INDEX).is_file() else path / SINGLE
        if not index.is_file():
            raise CheckpointError(
                f"The directory holds neither {INDEX} nor {SINGLE}.",
                where=path,
                hint="Give a LLaMA as Hugging Face stores it in safetensors, or an iLLaMA checkpoint file.",
            )
    elif path.suffix == ".safetensors" and path.is_file():
        index = path
    else:
        return None
    files = _sharded(index) if index.suffix == ".json" else dict.fromkeys(_names(index), index)
    found = next((name for name in files if name.endswith("layers.0.self_attn.q_proj.weight")), None)
    if found is None:
        if index == path and index.suffix != ".json":
            return None
        raise CheckpointError("It holds no layers of a LLaMA.", where=index, hint="Give a LLaMA, or an iLLaMA file.")
    settings = index.with_name("config.json")
    return _Llama(path, files, found.partition("layers.0.")[0], _read_json(settings) if settings.is_file() else {})


def _sharded(index: Path) -> dict[str, Path]:
    """Tensor name to shard, every shard there."""
    table = _read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError("The index has no table of tensors.", where=index, hint="Copy the checkpoint again.")
    shards = sorted(set(table.values()))
    if missing := [name for name in shards if not index.with_name(name).is_file()]:
        raise CheckpointError(
            f"{len(missing)} of {len(shards)} shards {'is' if len(missing) == 1 else 'are'} missing: "
            f"{', '.join(missing[:4])}{'…' if len(missing) > 4 else ''}.",
            where=index.parent,
            hint="Copy the checkpoint again, complete.",
        )
    return {name: index.with_name(shard) for name, shard in table.items()}


def _names(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"Not a readable safetensors file: {error}.", where=file, hint="It may be cut short; copy it again."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"It cannot be read: {error}.", where=path, hint="Copy it again.") from error
    return content if isinstance(content, dict) else {}


def _from_llama(state: dict[str, Tensor], llama: _Llama) -> tuple[str, ...]:
    wanted = {
        key: [llama.name(match[1], part) for part in PARTS[match[2]]]
        for key in state
        if (match := BLOCK_KEY.fullmatch(key)) and match[2] in PARTS
    }
    for names in wanted.values():
        for name in names:
            if name not in llama.files:
                raise _missing(name, llama.path)
    for key in track(list(wanted), "Selecting weights", len(wanted)):
        names = wanted[key]
        if len(names) > 1:
            _select_stacked(llama, names, state[key], key)
        else:
            _select(llama.read(names[0]), state[key], key, llama.path)
    return tuple(wanted)


def _select_stacked(llama: _Llama, names: Sequence[str], target: Tensor, key: str) -> None:
    """Select from q, k and v as if they were one tensor [3·dim, dim], reading one after the other."""
    first = 0
    each = 0
    for number, name in enumerate(names):
        weight = llama.read(name)
        if not number:
            each = len(weight)
            _require_larger((len(names) * each, weight.shape[1]), target.shape, key, llama.path)
            rows = evenly_spaced(len(names) * each, len(target))
            columns = evenly_spaced(weight.shape[1], target.shape[1])
        own = rows[(rows >= number * each) & (rows < (number + 1) * each)] - number * each
        if len(weight) != each:
            own = _shared_rows(own, each, len(weight), llama)
        target[first : first + len(own)] = weight.index_select(0, own).index_select(1, columns)
        first += len(own)


def _shared_rows(rows: Tensor, queries: int, keys: int, llama: _Llama) -> Tensor:
    """Rows of keys or values that several heads of queries share, as if each head had its own."""
    heads = llama.settings.get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1 or queries % heads or queries % keys:
        raise CheckpointError(
            f"Keys have {keys} rows and queries {queries}, and config.json does not say of how many heads.",
            where=llama.path,
            hint="Put the checkpoint's config.json beside it.",
        )
    size, group = queries // heads, queries // keys
    return rows // size // group * size + rows % size


def _missing(name: str, where: Path) -> CheckpointError:
    return CheckpointError(
        f"The larger network has no {name}.", where=where, hint="Take a source of at least as many layers."
    )
