"""Which tensors of a file are the network's: every complete set of weights is found, and one is chosen by a rule.

A set is what stands before one `cls_token` (or, where a file has none, one patch embedding): the dictionaries above it
and the prefix of its key are its name (`model`, `state_dict: ema_model.`). The rule:

- a set is *averaged* where its name says so (`ema`, `swa`, `averaged`, `shadow`), or `n_averaged` stands beside it;
- with `ema` the one averaged set is taken; without, the one that is not, or the averaged one where there is no other;
- where more than one is left, none is taken, and all are named.

What wrappers (DDP, FSDP, torch.compile, activation checkpointing) put inside of keys is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, parameter
from .stored import StoredTensor

__all__ = ["WeightSet", "choose_weights"]

ANCHOR = "cls_token"
#: What a set must have beside the anchor, so that a projection's own class token is none.
NEEDED = ("pos_embed", "patch_embed.proj.weight")
#: The same of networks without a class token, or without a position embedding.
OTHER_ANCHOR, OTHER_NEEDED = "patch_embed.proj.weight", ("blocks.0.norm1.weight",)
#: Dictionaries that are searched, one inside the other.
DEEPEST = 5
#: What wrappers put between the parts of a key.
WRAPPED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"})
AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|swa|averaged?|avg|shadow)(?![a-z])", re.IGNORECASE)
#: Dictionaries that hold tensors by the weights' names, and no weights.
OTHERS = re.compile(r"optim|grad|momentum|exp_avg|scaler|sched", re.IGNORECASE)
#: Where a file says what network it is without a set that is whole.
WRAPPERS = ("model", "state_dict", "module", "model_ema", "state_dict_ema", "ema", "net", "params", "weights")


@dataclass(frozen=True)
class WeightSet:
    """The weights of one network.

    Attributes:
        name: the dictionaries it stands in and the prefix of its keys, or nothing where it is the whole file.
        tensors: official keys to tensors.
        averaged: whether it is a moving average.
        left_out: entries beside it that belong to no set.
        others: names of the other sets.
    """

    name: str
    tensors: Mapping[str, StoredTensor]
    averaged: bool = False
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return repr(self.name) if self.name else "the file's own"


def choose_weights(tree: Any, path: Path, *, ema: bool) -> WeightSet:
    """Find the sets of weights in a file and choose one; see above.

    Raises:
        CheckpointError: there is none, none that is averaged (with `ema`), or more than one.
    """
    found = _distinct(list(_sets(tree, path, ANCHOR, NEEDED))) or _distinct(
        list(_sets(tree, path, OTHER_ANCHOR, OTHER_NEEDED))
    )
    if not found:
        found = [_what_there_is(tree, path)]
        if ema and not found[0].averaged:
            raise _no_average(path)
        return found[0]
    averaged = [one for one in found if one.averaged]
    trained = [one for one in found if not one.averaged]
    if ema and not averaged:
        raise _no_average(path)
    left = averaged if ema else trained or averaged
    if len(left) > 1:
        kind = "averaged " if left is averaged else ""
        first = left[0].name
        raise CheckpointError(
            f"It holds {len(left)} sets of {kind}weights: {_listed([one.title for one in left])}.",
            where=path,
            hint="Save the one that is meant alone, as torch.save({'model': state_dict}, path)"
            + ("." if ema or not averaged or trained else f", or take {first!r} with {parameter(ema=True)}."),
        )
    chosen = left[0]
    others = tuple(one.title for one in found if one is not chosen)
    return WeightSet(chosen.name, chosen.tensors, chosen.averaged, chosen.left_out, others)


def _no_average(path: Path) -> CheckpointError:
    return CheckpointError("It holds no averaged (EMA) weights.", where=path, hint=f"Leave {parameter('ema')} out.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _distinct(sets: list[WeightSet]) -> list[WeightSet]:
    """Leave out what is the same tensors under another name."""
    if len(sets) < 2:
        return sets
    distinct: dict[tuple[Any, ...], WeightSet] = {}
    for one in sets:
        distinct.setdefault(tuple(sorted((key, tensor.place) for key, tensor in one.tensors.items())), one)
    return list(distinct.values())


def _tables(tree: Any) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Dictionaries in dictionaries with what leads to them, the outer first, each once."""
    seen: set[int] = set()
    row: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while row:
        inner: list[tuple[tuple[str, ...], Any]] = []
        for path, table in row:
            if not isinstance(table, dict) or id(table) in seen:
                continue
            seen.add(id(table))
            yield path, table
            if len(path) < DEEPEST:
                inner += [
                    ((*path, key), value)
                    for key, value in table.items()
                    if isinstance(key, str) and isinstance(value, dict) and not OTHERS.search(key)
                ]
        row = inner


def _sets(tree: Any, path: Path, anchor: str, needed: tuple[str, ...]) -> Iterator[WeightSet]:
    for above, table in _tables(tree):
        tensors = {key: value for key, value in table.items() if isinstance(key, str) and _is_tensor(value)}
        prefixes = {key.removesuffix(anchor) for key in tensors if key.endswith(anchor)}
        prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
        if not prefixes:
            continue
        groups: dict[str, dict[str, StoredTensor]] = {prefix: {} for prefix in prefixes}
        rest: list[str] = []
        for key, value in tensors.items():
            prefix = next((p for p in _starts(key) if p in groups), None)
            if prefix is None:
                rest.append(key)
                continue
            official = _official(key[len(prefix) :])
            if official in groups[prefix]:
                raise CheckpointError(
                    f"Two of its tensors are {prefix}{official}, once wrapped and once not.",
                    where=path,
                    hint="Save one state dict alone, as torch.save({'model': state_dict}, path).",
                )
            groups[prefix][official] = value
        for prefix, group in groups.items():
            if all(key in group for key in needed):
                _require_tensors(table, prefix, path)
                name = ": ".join(part for part in ("/".join(above), prefix) if part)
                averaged = bool(AVERAGED.search(name)) or "n_averaged" in rest
                yield WeightSet(name, group, averaged, tuple(rest))


def _starts(key: str) -> Iterator[str]:
    """Prefixes of a key that end at a dot, the longest first, and none."""
    end = len(key)
    while (end := key.rfind(".", 0, end)) >= 0:
        yield key[: end + 1]
    yield ""


def _official(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPED)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor)


def _require_tensors(table: Mapping[Any, Any], prefix: str, path: Path) -> None:
    """Refuse a set whose keys do not all lead to tensors."""
    wrong = [
        key
        for key, value in table.items()
        if not _is_tensor(value)
        and isinstance(key, str)
        and key.startswith(prefix)
        and ("." in key or key in (ANCHOR, *NEEDED))
        and not (isinstance(value, dict) and not prefix)
    ]
    if wrong:
        raise _no_tensors(wrong, path)


def _no_tensors(names: list[str], path: Path) -> CheckpointError:
    return CheckpointError(
        f"Not all of its entries are tensors: {_listed([name[:80] for name in names])}.",
        where=path,
        hint="Give a state dict, bare or under the key 'model'.",
    )


def _what_there_is(tree: Any, path: Path) -> WeightSet:
    """What comes nearest to weights, for whoever says what is missing."""
    state, name = tree, ""
    for _ in range(DEEPEST):
        key = next((k for k in WRAPPERS if isinstance(state, dict) and isinstance(state.get(k), dict)), None)
        if key is not None:
            state, name = state[key], f"{name}/{key}" if name else key
    if not isinstance(state, dict) or not state:
        kind = "an empty dictionary" if isinstance(state, dict) else type(state).__name__
        kind = "Tensor" if isinstance(state, StoredTensor) else kind
        raise CheckpointError(
            f"It holds {kind}, not a dictionary of tensors.",
            where=path,
            hint="Save torch.save({'model': model.state_dict()}, path).",
        )
    tensors = {str(key): value for key, value in state.items() if isinstance(value, StoredTensor)}
    if not tensors:
        raise _no_tensors([str(key) for key in state], path)
    known = next((key for key in tensors if key.endswith((ANCHOR, *NEEDED))), "")
    prefix = next((known.removesuffix(end) for end in (ANCHOR, *NEEDED) if known.endswith(end)), "")
    kept = {_official(key.removeprefix(prefix)): value for key, value in tensors.items()}
    return WeightSet(name, kept, bool(AVERAGED.search(name)))
