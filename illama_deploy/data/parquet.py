"""Hugging Face parquet: encoded image bytes and a label, in one file or in split-named shards."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import DataError, parameter
from ..names import shown
from .classes import natural_order_note
from .decode import UndecodableError, decode, open_regular
from .source import NO_LABEL, Request, Sample, Source, find_split, split_kind

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["Parquet", "open_parquet"]

#: At most so many rows are in memory, and about so many bytes; where rows share values, at most so many.
ROWS_AT_ONCE, BYTES_AT_ONCE, SHARED_BYTES = 256, 2**26, 2**30
IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "png")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category", "class_id", "label_id")
#: Where Hugging Face's metadata describes the columns.
DESCRIBED = "features"
#: How much larger than stored a column may be: image bytes are compressed already, and labels are few.
MOST_UNFOLDED, FREE_BYTES = 200, 2**26
#: The fewest bytes that an image takes in a file; below, a few values stand for any number of rows.
BYTES_OF_ROW, FREE_ROWS = 8, 1000
#: Columns and nested fields that a file may have. Beyond, readers take long or run out of stack.
MOST_COLUMNS = 10_000
SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<total>\d+)")


class Parquet(Source):
    """Shards in name order; only row groups that hold wanted rows are read, and few rows at a time."""

    def __init__(self, files: list[Path], split: str, options: Mapping[str, str], names: Sequence[str] = ()) -> None:
        self.spec, self.split = f"parquet:{files[0]}", split
        self.files = files
        self.groups: list[tuple[int, int, int, int]] = []  # file, row group, first row, end row
        self.names: dict[str, int] | None = None  # of labels that are texts
        notes: list[str] = []
        rows = 0
        for number, path in enumerate(files):
            opened = _open(path)
            metadata, schema = opened.metadata, opened.schema_arrow
            if number == 0:
                self.image = _image_column(schema, options.get("image"), path)
                self.label, self.unlabelled = _label_column(schema, self.image, options.get("label"), path)
                self.schema, self.at_once = schema, ROWS_AT_ONCE
            elif _kinds(schema, (self.image, self.label)) != _kinds(self.schema, (self.image, self.label)):
                raise DataError(
                    f"Its columns are not those of {shown(files[0].name)}: {_described(schema)}.",
                    where=shown(path),
                    hint="Make all shards alike.",
                )
            for group in range(metadata.num_row_groups):
                held, at_once = _check_group(metadata.row_group(group), (self.image, self.label), path)
                self.at_once = max(1, min(self.at_once, at_once))
                self.groups.append((number, group, rows, rows + held))
                rows += held
        self.rows = rows
        self._samples: list[Sample] | None = None
        if self.label is not None:
            self._name_classes(names, notes, guessed=self.label not in (*LABEL_NAMES, options.get("label")))
        self.notes = tuple(notes)

    def _name_classes(self, names: Sequence[str], notes: list[str], *, guessed: bool) -> None:
        """Find the classes' names, and the numbers of labels that are texts."""
        import pyarrow as pa

        assert self.label is not None
        self.classes = tuple(names) or _class_names(self.schema, self.label)
        if guessed and not self.classes:
            notes.append(f"labels are those of the column {shown(self.label)!r}, the only one of whole numbers")
        kind = self.schema.field(self.label).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_boolean(kind) and not self.classes:
            self.classes = ("false", "true")
        if not _is_text(kind):
            return
        if not self.classes:
            found = {str(label) for label in self._labels() if label is not None}
            self.classes = tuple(sorted(found))
            few = ", ".join(map(shown, self.classes[:5])) + (", …" if len(self.classes) > 5 else "")
            notes.append(f"labels are texts, numbered in alphabetical order: {few}")
            if note := natural_order_note(self.classes):
                notes.append(note)
        self.names = {name: number for number, name in enumerate(self.classes)}
        self.classes = tuple(map(shown, self.classes))

    def _labels(self) -> Iterator[Any]:
        """The labels that there are, each at least once."""
        for number, group, _, _ in self.groups:
            opened = _open(self.files[number])
            for batch in _batches(opened, self.files[number], group, [self.label], 2**16):
                yield from batch.column(0).unique().to_pylist()

    def __len__(self) -> int:
        return self.rows

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        opened: tuple[int, pq.ParquetFile] | None = None
        columns = [self.image] if self.label is None else [self.image, self.label]
        for number, group, first, end in self.groups:
            low, high = bisect_left(indices, first), bisect_left(indices, end)
            if low == high:
                continue
            if opened is None or opened[0] != number:
                opened = (number, _open(self.files[number]))
            row = first
            wanted = iter(indices[low:high])
            target: int | None = next(wanted)
            for batch in _batches(opened[1], self.files[number], group, columns, self.at_once):
                while target is not None and target < row + len(batch):
                    yield self._sample(target, number, batch, target - row)
                    target = next(wanted, None)
                row += len(batch)
                if target is None:
                    break
            if target is not None:
                raise _damaged(self.files[number], f"it says {end - first} rows and holds {row - first}")

    def at(self, index: int) -> Sample:
        """One sample; the first time, all encoded images are read into memory, since rows have no random access."""
        if self._samples is None:
            self._samples = list(self.read(range(self.rows)))
        return self._samples[index]

    def _sample(self, index: int, number: int, batch: Any, row: int) -> Sample:
        path = self.files[number]
        name = f"{shown(path.name)} row {index}"
        try:
            cell = batch.column(self.image)[row].as_py()
            label = None if self.label is None else batch.column(self.label)[row].as_py()
        except Exception as error:  # a value that its own type does not allow
            raise _damaged(path, error) from error
        return Sample(index, name, self._number(label), partial(_decode, cell))

    def _number(self, label: Any) -> int:
        if isinstance(label, str):
            return NO_LABEL if self.names is None else self.names.get(label, NO_LABEL)
        return int(label) if isinstance(label, int) or (isinstance(label, float) and label.is_integer()) else NO_LABEL


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    try:
        with open_regular(path):  # a pipe would be waited for
            pass
        # Few footers are larger than what they describe: a file of this size holds no more entries.
        most = min(path.stat().st_size, 100_000_000) + 1000
        opened = pq.ParquetFile(
            path, buffer_size=2**22, thrift_string_size_limit=most, thrift_container_size_limit=most
        )
        columns = opened.metadata.num_columns
        if columns > MOST_COLUMNS:
            raise ValueError(f"it has {columns} columns")
        opened.schema_arrow  # noqa: B018  (which may fail)
        return opened
    except Exception as error:  # damaged files raise nearly anything from inside the reader
        raise _damaged(path, error) from error


def _check_group(group: Any, columns: tuple[str, str | None], path: Path) -> tuple[int, int]:
    """Rows of a row group, and how many of them may be in memory.

    Raises:
        DataError: it would unfold to more than images are, or its figures cannot be.
    """
    try:
        rows, unfolded, stored, shared = group.num_rows, 0, 0, False
        for number in range(group.num_columns):
            column = group.column(number)
            if column.path_in_schema.partition(".")[0] in columns:
                unfolded += column.total_uncompressed_size
                stored += column.total_compressed_size
                shared |= any("DICTIONARY" in encoding for encoding in column.encodings)
    except Exception as error:
        raise _damaged(path, error) from error
    size = path.stat().st_size
    if not 0 <= rows <= max(FREE_ROWS, size // BYTES_OF_ROW) or min(unfolded, stored) < 0 or stored > size:
        raise _damaged(path, f"a row group of {rows} rows and {stored} bytes in a file of {size}")
    if unfolded > MOST_UNFOLDED * stored + FREE_BYTES:
        raise _damaged(path, f"{stored} bytes would unfold to {unfolded}")
    # A value that rows share is stored once, and in memory for each.
    return rows, min(BYTES_AT_ONCE * rows, SHARED_BYTES if shared else BYTES_AT_ONCE * rows) // max(unfolded, 1)


def _batches(opened: pq.ParquetFile, path: Path, group: int, columns: Sequence[str | None], rows: int) -> Iterator[Any]:
    try:
        yield from opened.iter_batches(rows, row_groups=[group], columns=list(columns))
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception | str) -> DataError:
    lines = str(error).splitlines() or [type(error).__name__]
    return DataError(
        f"Not a readable parquet file: {shown(lines[0]).rstrip('.')}.",
        where=shown(path),
        hint="It may be cut short; copy it again.",
    )


def _decode(cell: Any) -> Image.Image:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not data:
        path = cell.get("path") if isinstance(cell, dict) else None
        # A path inside a file may name anything on this machine.
        outside = f"; it names a file outside, {shown(path)}, which is not read" if path else ""
        raise UndecodableError(f"no image bytes in the row{outside}")
    return decode(data)


def _described(schema: Any) -> str:
    return ", ".join(f"{shown(field.name)} ({shown(str(field.type)[:40])})" for field in list(schema)[:12])


def _kinds(schema: Any, names: Sequence[str | None]) -> list[str | None]:
    return [str(schema.field(name).type) if name in schema.names else None for name in names if name is not None]


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind))


def _choose(schema: Any, name: str, what: str, path: Path) -> str:
    """The column that the spec names."""
    if schema.names.count(name) != 1:
        raise DataError(
            f"It has no column {shown(name)!r}, which the spec says holds the {what}; it has {_described(schema)}.",
            where=shown(path),
            hint=f"Write parquet:PATH?{what}=COLUMN.",
        )
    return name


def _image_column(schema: Any, named: str | None, path: Path) -> str:
    """Find the column of image bytes: bytes, or a struct that holds `bytes`.

    Raises:
        DataError: there is none, or several and nothing says which.
    """
    import pyarrow as pa

    def is_struct(kind: pa.DataType) -> bool:
        return pa.types.is_struct(kind) and any(
            kind.field(i).name == "bytes" and is_bytes(kind.field(i).type) for i in range(kind.num_fields)
        )

    def is_bytes(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    structs = [field.name for field in schema if is_struct(field.type)]
    binaries = [field.name for field in schema if is_bytes(field.type)]
    fitting = [name for name in (*structs, *binaries) if schema.names.count(name) == 1]
    if named is not None:
        chosen = [name for name in fitting if name == _choose(schema, named, "image", path)]
    else:
        chosen = [name for name in IMAGE_NAMES if name in fitting] or structs or binaries
        if len(structs) == 1:
            chosen = structs
    if not chosen or (len(chosen) > 1 and chosen[0] not in IMAGE_NAMES):
        what = f"Which of {', '.join(map(shown, chosen))} has the images" if chosen else "A column of image bytes"
        raise DataError(
            f"{what} {'is not said' if chosen else 'is needed'}; it has {_described(schema)}.",
            where=shown(path),
            hint="Say which with parquet:PATH?image=COLUMN."
            if chosen
            else "Write it as Hugging Face data sets do: an Image feature and a ClassLabel.",
        )
    return chosen[0]


def _label_column(schema: Any, image: str, named: str | None, path: Path) -> tuple[str | None, str]:
    """Find the column of labels, or say why there is none (half a sentence)."""
    import pyarrow as pa

    def fits(name: str, *, text: bool = True) -> bool:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return _is_number(kind) or (text and _is_text(kind))

    names = [name for name in schema.names if schema.names.count(name) == 1 and name != image]
    if named is not None:
        chosen = _choose(schema, named, "label", path)
    elif known := [name for name in LABEL_NAMES if name in names]:
        chosen = known[0]
    elif len(features := [name for name in names if _class_names(schema, name)]) == 1:
        chosen = features[0]
    else:
        integers = [name for name in names if pa.types.is_integer(schema.field(name).type)]
        if len(integers) == 1:
            return integers[0], ""
        why = f"which of its columns has them is not said (parquet:PATH?label=COLUMN); it has {_described(schema)}"
        return None, why
    if not fits(chosen):
        return None, f"its column {shown(chosen)!r} holds no numbers or names of classes; it has {_described(schema)}"
    return chosen, ""


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Read class names from the Hugging Face features, where the file carries them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"][DESCRIBED]
        names = features[label]["names"]
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def open_parquet(request: Request) -> Source:
    """Open a file, or the shards of a directory (or of its `data` folder) whose names open with a split's."""
    path, about = Path(request.path), (request.options, request.names)
    try:
        if path.is_file():
            if request.named and not path.name.startswith(request.splits[0]):
                raise DataError(
                    f"A single parquet file is one split; its name does not open with {request.splits[0]!r}.",
                    where=shown(path),
                    hint=f"Leave {parameter('split')} out, or give the directory.",
                )
            source = Parquet([path], path.name.partition("-")[0] if "-" in path.name else "", *about)
            if (shard := SHARD.fullmatch(path.stem)) and int(shard["total"]) > 1:
                source.notes += (f"one of {int(shard['total'])} shards is read, {shown(path.name)}",)
            return source
        if not path.is_dir():
            raise DataError(
                "There is no such file or directory.", where=shown(path), hint="Check the path after 'parquet:'."
            )
        by_split = _shards(path)
    except OSError as error:
        raise DataError(
            f"Cannot read it: {shown(error.strerror or error)}.", where=shown(path), hint="Give what you may read."
        ) from error
    if not by_split:
        raise DataError(
            f"It has no parquet shards of split {' or '.join(request.splits)}.".replace(" of split .", "."),
            where=shown(path),
            hint="There is no parquet file at all.",
        )
    split = find_split(request.splits, by_split)
    if split is None and not request.named and list(by_split) == [""]:
        split = ""
    if split is None:
        raise DataError(
            f"It has no parquet shards of split {' or '.join(request.splits) or '(none)'}.",
            where=shown(path),
            hint=f"Splits there: {', '.join(shown(name) or '(none)' for name in by_split)} ({parameter('split')}).",
        )
    files = by_split[split]
    _check_shards(files)
    return Parquet(files, split, *about)


def _shards(path: Path) -> dict[str, list[Path]]:
    """The parquet files of a directory by split; one that names no split is of the split ""."""
    found: dict[str, list[Path]] = {}
    for folder in (path, path / "data"):
        if not folder.is_dir():
            continue
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        own: dict[str, list[Path]] = {}
        for file in entries:
            if file.suffix == ".parquet" and file.is_file():
                own.setdefault(_split_of(file), []).append(file)
        if (
            own
            and not any(map(_is_usual, own))
            and not any(SHARD.fullmatch(f.stem) for files in own.values() for f in files)
        ):
            # Such as part-0.parquet and part-1.parquet: shards of one.
            own = {"": sorted(file for files in own.values() for file in files)}
        for inner in entries:
            files = sorted(inner.glob("[!.]*.parquet")) if inner.is_dir() and inner.name != "data" else []
            if files:
                own.setdefault(inner.name, files)
        found = {**own, **found}
    return found


def _split_of(file: Path) -> str:
    match = SHARD.fullmatch(file.stem)
    if match:
        return match["split"]
    head, dash, _ = file.stem.partition("-")
    return head if dash or _is_usual(file.stem) else ""


def _is_usual(split: str) -> bool:
    return split_kind(split) is not None


def _check_shards(files: Sequence[Path]) -> None:
    """Refuse a split of which a shard is missing.

    Raises:
        DataError: naming the shards.
    """
    named = [SHARD.fullmatch(file.stem) for file in files]
    if not any(named):
        return
    totals = sorted({int(match["total"]) for match in named if match})
    numbers = {int(match["number"]) for match in named if match}
    problem = ""
    if len(totals) > 1 or None in named:
        problem = "Its shards are not of one series"
    elif missing := [n for n in range(min(totals[0], 100_000)) if n not in numbers]:
        few = ", ".join(f"{n:05}" for n in missing[:6]) + (", …" if len(missing) > 6 else "")
        problem = f"{len(missing)} of {totals[0]} shards are missing: {few}"
    elif max(numbers) >= totals[0]:
        problem = f"A shard has the number {max(numbers)} of {totals[0]}"
    if problem:
        raise DataError(
            f"{problem}.",
            where=shown(files[0]),
            hint="Copy what is missing, or give one file: parquet:FILE.",
        )
