"""JSON documents that carry their own hash: read strictly, and refused where they were edited.

What ships is described by such documents, and every one of them may come from somebody else. So none is believed before
its seal holds, and what JSON leaves open (a key twice, NaN, half a character, any depth) is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ArtifactError
from .hashing import canonical_json

__all__ = ["SEAL", "parse_json", "read_sealed", "read_text", "seal", "seal_of", "write_sealed"]

#: Key of a document's own hash, over everything else in it.
SEAL = "content_sha256"
#: No document of ours is deeper, or larger than so many bytes.
DEPTH, SIZE = 64, 64 * 2**20
#: Digits of the longest number; more than any float64 needs.
DIGITS = 400


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that anybody may have written.

    Raises:
        ValueError: no JSON, no UTF-8, a key twice, NaN or infinity, a number out of range, half a surrogate pair, or
            deeper than `DEPTH`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_no_constant,
            parse_int=lambda digits: int(digits) if len(digits) <= DIGITS else _no_constant(digits[:20] + "…"),
            parse_float=_finite,
        )
        _check(value, DEPTH)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def seal_of(content: Mapping[str, Any], key: str = SEAL) -> str:
    """The hash of everything in a document but the hash itself.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    bare = {name: value for name, value in content.items() if name != key}
    return hashlib.sha256(canonical_json(bare).encode()).hexdigest()


def seal(content: Mapping[str, Any], key: str = SEAL) -> dict[str, Any]:
    """The document with its own hash, as its last entry."""
    return {**{name: value for name, value in content.items() if name != key}, key: seal_of(content, key)}


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a document with its own hash; `path` is a new file, or one that is put aside (see `atomic`)."""
    path.write_text(canonical_json(seal(content)), encoding="utf-8")


def read_text(path: Path, what: str, again: str) -> str:
    """Read a text file of a size that one of ours may have.

    Raises:
        ArtifactError: not there, no regular file, too large, not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{what} is no regular file.", where=path, hint=again)
        with path.open("rb") as file:
            data = file.read(SIZE + 1)
        if len(data) > SIZE:
            raise ArtifactError(f"{what} is larger than any that is written here.", where=path, hint=again)
        return data.decode("utf-8")
    except OSError as error:
        raise ArtifactError(f"{what} cannot be read: {error.strerror or error}.", where=path, hint=again) from error
    except ValueError as error:
        raise ArtifactError(f"{what} is no text in UTF-8.", where=path, hint=again) from error


def read_sealed(path: Path, schema: str, *, what: str, again: str, key: str = SEAL) -> dict[str, Any]:
    """Read a document and hold it to its schema's name and to its seal.

    Args:
        what: what to call it, as a sentence opens: "The manifest".
        again: what to do where it cannot be used.
        key: of the seal.

    Raises:
        ArtifactError: not there, no JSON, of another schema, or edited after it was written.
    """
    try:
        text = read_text(path, what, again)
        content = parse_json(text)
    except ValueError as error:
        raise ArtifactError(
            f"{what} is no JSON as it is written here ({error}).", where=path, hint=f"It may be cut short. {again}"
        ) from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        shown = repr(found) if len(repr(found)) < 100 else "another"
        raise ArtifactError(f"{what} has the schema {shown}; {schema!r} is needed.", where=path, hint=again)
    # To the byte: bytes are what other files' hashes of this one are of.
    if text != canonical_json(seal(content, key)):
        raise ArtifactError(
            f"{what} was edited after it was written (its content does not match its own hash).",
            where=path,
            hint=f"Take the file as it was written. {again}",
        )
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:80]!r} stands in it twice")
        found[name] = value
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number that JSON knows")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _no_constant(text[:20])
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse what is too deep, and text that cannot be written out again."""
    if not depth:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        _whole(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            _whole(name)
            _check(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth - 1)


def _whole(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a text in it has half a character (a lone surrogate)") from None
