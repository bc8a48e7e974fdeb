"""Edits of JSON, by its structure; with the seal over it made anew, too, as one who means harm would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from .draw import Draw, Edit, edit

__all__ = ["JSON", "JSON_LINES", "RESEALED", "edit_tree", "strange", "write"]

#: Text that JSON's writer would not write stands in a string until the end.
RAW = re.compile(r'"@@raw:(.*?)@@"', re.DOTALL)
TWICE = "@@twice@@"
DEEP = 20_000


def strange(draw: Draw, value: Any = None) -> Any:
    """A value that nobody expects in the place of `value`."""
    pool: list[Any] = [
        None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e-9, 1e9, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30,
        "", " ", "text", "0", "nan", "é\u202e\u200b", "\0", "a\nb", "\ud800", "=1+1", "../..", "/", "digits",
        "<script>alert(1)</script>", "[a](javascript:b)", "x" * 100_000, str(draw.trap), f"folder:{draw.trap}",
        f"parquet:{draw.trap}", f"folder:{draw.trap.parent}", "timm:hfds/a/b", "timm:wds/x?root=pipe:touch ../marker",
        [], {}, [[]], [None], [0] * 1000, {"a": 1}, {"": {}}, ["digits"], [1, 2, 3],
        "@@raw:NaN@@", "@@raw:-Infinity@@", "@@raw:1e400@@", "@@raw:-0@@", f"@@raw:{'9' * 5000}@@",
        f"@@raw:{'[' * DEEP + ']' * DEEP}@@", "@@raw:0x10@@", "@@raw:undefined@@",
    ]  # fmt: skip
    if isinstance(value, bool):
        pool += [not value] * 8
    elif isinstance(value, int | float):
        pool += [-value, value + 1, value - 1, value * 2, value * 1_000_003, float(value), str(value), [value]] * 2
    elif isinstance(value, str):
        pool += [value + " ", value.upper(), value[::-1], value[:-1], value + value, [value], {"a": value}] * 2
        if re.fullmatch("[0-9a-f]{64}", value):
            pool += [value[1:] + value[0], "0" * 64, value[:-1] + "g"] * 4
    elif isinstance(value, list):
        pool += [value[:-1], value[1:], value[::-1], value + value, [value], {str(i): v for i, v in enumerate(value)},
                 [*value, None], value * 1000] * 2  # fmt: skip
    elif isinstance(value, dict):
        pool += [list(value), list(value.values()), [value], {**value, "unknown": 1}] * 2
    return draw.rng.choice(pool)


def edit_tree(tree: Any, draw: Draw) -> Any:
    """Change one place of a tree."""
    places = list(_places(tree))
    if not places:
        return strange(draw, tree)
    parent, key = draw.rng.choice(places)
    value = parent[key]
    what = draw.rng.randrange(12)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, dict):
        parent[f"{key}{TWICE}"] = draw.rng.choice((value, strange(draw, value)))
    elif what == 2 and isinstance(parent, dict):
        parent[draw.rng.choice((key + "s", key.upper(), "", " ", key[:-1], "__class__", "\ud800"))] = parent.pop(key)
    elif what == 3 and isinstance(parent, dict):
        parent[draw.rng.choice(("unknown", "", "__proto__"))] = strange(draw, value)
    elif what == 4 and len(parent) > 1:
        other = draw.rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    elif what == 5 and isinstance(parent, list):
        parent.insert(key, draw.rng.choice((value, strange(draw, value))))
    else:
        parent[key] = strange(draw, value)
    return tree


def write(tree: Any, *, indent: int | None = 1) -> bytes:
    """Write what `edit_tree` made; lone surrogates as escapes, twice the same key where it says so."""
    text = json.dumps(tree, indent=indent)
    return RAW.sub(lambda match: json.loads(f'"{match[1]}"'), text).replace(TWICE, "").encode()


def tree_edit(content: bytes, draw: Draw) -> bytes:
    return write(edit_tree(json.loads(content), draw))


def tree_edits(content: bytes, draw: Draw) -> bytes:
    for _ in range(draw.rng.randint(2, 5)):
        try:
            content = write(edit_tree(json.loads(content), draw))
        except (ValueError, RecursionError):
            break
    return content


def other_text(content: bytes, draw: Draw) -> bytes:
    """As JSON is not written, or is all the same."""
    text = content.decode()
    return draw.rng.choice((
        "\ufeff".encode() + content,
        text.encode("utf-16"),
        content.replace(b'"', b"'"),
        content[:-2] + b",\n}",
        content + content,
        b"// a comment\n" + content,
        b"[" + content + b"]",
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"null", b"5", b"[]", b"{}", b'""', b"NaN", b"true", b" ", b"\xff\xfe\xff",
        re.sub(rb"(\d)", rb"\1\1\1\1\1", content),
    ))  # fmt: skip


def resealed(content: bytes, draw: Draw) -> bytes:
    """An edit under a seal that holds: the file that one who knows the format writes."""
    return reseal(content, tree_edit(content, draw))


def resealed_more(content: bytes, draw: Draw) -> bytes:
    return reseal(content, tree_edits(content, draw))


def reseal(content: bytes, edited: bytes) -> bytes:
    """Put the seal over `edited` where `content` has its own, if both can be read."""
    before = json.loads(content)
    try:
        after = json.loads(edited)
        for key, value in before.items():
            bare = {name: v for name, v in before.items() if name != key}
            if isinstance(after, dict) and value == _seal(bare):
                rest = {name: v for name, v in after.items() if name != key}
                if write(after) == edited:  # nothing in it twice: as it is written here, to the last space
                    return _canonical({**rest, key: _seal(rest)})
                return edited.replace(value.encode(), _seal(rest).encode())
    except (ValueError, RecursionError):
        pass
    return edited


def lines_edit(content: bytes, draw: Draw) -> bytes:
    """Of a file with a JSON value on each line."""
    lines = content.splitlines(keepends=True)
    number = draw.rng.randrange(len(lines))
    what = draw.rng.randrange(6)
    if what == 0:
        del lines[number]
    elif what == 1:
        lines.insert(number, lines[number])
    elif what == 2:
        draw.rng.shuffle(lines)
    elif what == 3:
        lines[number] = write(strange(draw), indent=None) + b"\n"
    else:
        lines[number] = write(edit_tree(json.loads(lines[number]), draw), indent=None) + b"\n"
    return b"".join(lines)


def _seal(content: Any) -> str:
    return sha256(_canonical(content)).hexdigest()


def _canonical(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(value)


JSON: tuple[Edit, ...] = (*map(edit, (tree_edit, tree_edit, tree_edit, tree_edits, other_text)),)
RESEALED = (edit(resealed, whole=True), edit(resealed, whole=True), edit(resealed_more, whole=True))
JSON_LINES = (edit(lines_edit),)
