"""Weight selection: start a network with evenly spaced weights of a larger one, iLLaMA or LLaMA.

Along each axis, every n-th element where sizes divide, else the elements nearest to even spacing. Of an iLLaMA
everything but the head is taken; of a LLaMA the first layers' norms, attention (q, k and v stacked as in `qkv`, then
selected) and FFN, and the rest stays as it was initialised.
Sources: Z. Xu et al., *Initializing Models with Larger Ones*, ICLR 2024; the iLLaMA authors' script for LLaMA 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import ArtifactError, CheckpointError
from ..model.illama import Illama, IllamaConfig
from ..progress import track
from ..sealed import parse_json, read_text
from ..tables import typed
from .geometry import interpolate_positions
from .load import find_checkpoint, read_checkpoint
from .safetensors_file import tensors_of
from .stored import FLOATS, DamagedError, StoredTensor, is_finite

__all__ = ["Selected", "evenly_spaced", "select_weights"]

T = TypeVar("T")

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
    larger = source.illama("Weight selection")
    wanted = tuple(key for key in state if not key.startswith("head."))
    for key in wanted:
        weight = source.state.get(key)
        if weight is None:
            raise _missing(key, path)
        if key == "pos_embed":
            # Where the class token stands is the source's business while its grid is resized; then its row moves along.
            weight = interpolate_positions(weight, larger.grid, config.grid, larger.class_index)
            weight = weight.roll(config.class_index - larger.class_index, 1)
        _select(weight, state[key], key, path)
    return wanted


@dataclass(frozen=True)
class _Settings:
    """What is used of `config.json`."""

    num_attention_heads: int | None = None


@dataclass(frozen=True)
class _Llama:
    """A LLaMA in Hugging Face's format.

    Attributes:
        files: tensor name to the file that holds it, and the tensor; each is opened anew when it is read.
        prefix: of the names of layers.
        heads: what `config.json` says, or nothing.
    """

    path: Path
    files: Mapping[str, tuple[Path, StoredTensor]]
    prefix: str
    heads: int | None

    def name(self, layer: str, part: str) -> str:
        """Name of a layer's tensor."""
        return f"{self.prefix}layers.{layer}.{part}"

    def read(self, name: str, axes: int) -> Tensor:
        """Read a tensor of so many axes."""
        file, tensor = self.files[name]
        if tensor.dtype not in FLOATS or len(tensor.shape) != axes or not tensor.size:
            kind = tensor.odd or str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{name} is {kind} {list(tensor.shape)[:8]}; floating-point numbers on {axes} axes are needed.",
                where=file,
                hint="Give a LLaMA that is not quantized.",
            )
        try:
            values = tensor.fetch()
        except (DamagedError, OSError) as error:
            raise _unreadable(file, str(error)) from error
        if not is_finite(values):
            raise CheckpointError(f"{name} has NaN or infinite values.", where=file, hint="Copy the checkpoint again.")
        return values


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
        index = path  # a LLaMA, or an iLLaMA
    else:
        return None
    tables = _sharded(index) if index.suffix == ".json" else {index: None}
    files: dict[str, tuple[Path, StoredTensor]] = {}
    for file, named in tables.items():
        held = _tensors(file)
        if missing := [name for name in named or () if name not in held]:
            raise CheckpointError(
                f"The index says that {missing[0][:120]} is in it, and it is not.",
                where=file,
                hint="Copy the checkpoint again, complete.",
            )
        files |= {name: (file, held[name]) for name in (held if named is None else named)}
    found = next((name for name in files if name.endswith("layers.0.self_attn.q_proj.weight")), None)
    if found is None:
        if index == path and index.suffix != ".json":
            return None
        raise CheckpointError("It holds no layers of a LLaMA.", where=index, hint="Give a LLaMA, or an iLLaMA file.")
    settings = index.with_name("config.json")
    heads = _read_table(settings, _Settings).num_attention_heads if settings.exists() else None
    return _Llama(path, files, found.partition("layers.0.")[0], heads)


@dataclass(frozen=True)
class _Index:
    """What is used of a shard index."""

    weight_map: dict[str, str]


def _sharded(index: Path) -> dict[Path, list[str]]:
    """Shard to the tensors that the index says are in it; every shard is there, and beside the index."""
    table = _read_table(index, _Index).weight_map
    shards = sorted(set(table.values()))
    if outside := [name for name in shards if Path(name).name != name or name in (".", "..") or "\\" in name]:
        raise CheckpointError(
            f"The index names {outside[0][:120]!r}, which is no file beside it.",
            where=index,
            hint="Shards lie in the folder of their index; copy the checkpoint again.",
        )
    if missing := [name for name in shards if not index.with_name(name).is_file()]:
        raise CheckpointError(
            f"{len(missing)} of {len(shards)} shards {'is' if len(missing) == 1 else 'are'} missing: "
            f"{', '.join(name[:120] for name in missing[:4])}{'…' if len(missing) > 4 else ''}.",
            where=index.parent,
            hint="Copy the checkpoint again, complete.",
        )
    named: dict[Path, list[str]] = {}
    for name, shard in table.items():
        named.setdefault(index.with_name(shard), []).append(name)
    return named


def _tensors(file: Path) -> Mapping[str, StoredTensor]:
    try:
        return tensors_of(find_checkpoint(file))
    except (DamagedError, OSError) as error:
        raise _unreadable(file, str(error)) from error


def _unreadable(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"Its tensors cannot be read: {why.rstrip('.')[:300]}.", where=file, hint="It may be cut short; copy it again."
    )


def _read_table(path: Path, kind: type[T]) -> T:
    try:
        return typed(kind, parse_json(read_text(path, "The file", "Copy it again.")))
    except (ArtifactError, ValueError) as error:
        problem = error.what if isinstance(error, ArtifactError) else str(error)
        raise CheckpointError(
            f"{path.name} cannot be read: {problem.rstrip('.')}.", where=path, hint="Copy it again."
        ) from error


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
            _select(llama.read(names[0], state[key].ndim), state[key], key, llama.path)
    return tuple(wanted)


def _select_stacked(llama: _Llama, names: Sequence[str], target: Tensor, key: str) -> None:
    """Select from q, k and v as if they were one tensor [3·dim, dim], reading one after the other."""
    first = 0
    each = 0
    for number, name in enumerate(names):
        weight = llama.read(name, 2)
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
    heads = llama.heads
    if heads is None or heads < 1 or queries % heads or queries % keys:
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
