"""Hugging Face parquet: encoded image bytes and an integer label, in one file or in split-named shards."""

from __future__ import annotations

import io
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import DataError
from .source import Sample, Source

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["open_parquet"]

ROWS_AT_ONCE = 256
LABEL_NAMES = ("label", "labels", "fine_label", "class")


class Parquet(Source):
    """Shards in name order; only row groups that hold wanted rows are read, and few rows at a time."""

    def __init__(self, files: list[Path], split: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.spec, self.split = f"parquet:{files[0]}", split
        self.files = files
        self.groups: list[tuple[int, int, int, int]] = []  # file, row group, first row, end row
        rows = 0
        for number, path in enumerate(files):
            try:
                opened = pq.ParquetFile(path)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from error
            metadata, schema = opened.metadata, opened.schema_arrow
            if number == 0:
                self.image, self.label = _columns(schema, path)
                self.classes = _class_names(schema, self.label)
            elif _columns(schema, path) != (self.image, self.label):
                raise DataError(
                    f"Its columns are not those of {files[0].name}.", where=path, hint="Make all shards alike."
                )
            for group in range(metadata.num_row_groups):
                end = rows + metadata.row_group(group).num_rows
                self.groups.append((number, group, rows, end))
                rows = end
        self.rows = rows
        self._samples: list[Sample] | None = None

    def __len__(self) -> int:
        return self.rows

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        import pyarrow.parquet as pq

        opened: tuple[int, pq.ParquetFile] | None = None
        for number, group, first, end in self.groups:
            low, high = bisect_left(indices, first), bisect_left(indices, end)
            if low == high:
                continue
            if opened is None or opened[0] != number:
                opened = (number, pq.ParquetFile(self.files[number]))
            row = first
            wanted = iter(indices[low:high])
            target: int | None = next(wanted)
            columns = [self.image, self.label]
            for batch in _batches(opened[1], self.files[number], group, columns):
                while target is not None and target < row + len(batch):
                    yield self._sample(target, number, batch, target - row)
                    target = next(wanted, None)
                row += len(batch)
                if target is None:
                    break

    def at(self, index: int) -> Sample:
        """One sample; the first time, all encoded images are read into memory, since rows have no random access."""
        if self._samples is None:
            self._samples = list(self.read(range(self.rows)))
        return self._samples[index]

    def _sample(self, index: int, number: int, batch: Any, row: int) -> Sample:
        cell = batch.column(self.image)[row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        label = batch.column(self.label)[row].as_py()
        name = f"{self.files[number].name} row {index}"
        return Sample(index, name, -1 if label is None else int(label), partial(_decode, data))


def _batches(opened: pq.ParquetFile, path: Path, group: int, columns: list[str]) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from opened.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"Not a readable parquet file: {str(error).splitlines()[0]}.",
        where=path,
        hint="It may be cut short; copy it again.",
    )


def _decode(data: bytes | None) -> Image.Image:
    if not data:
        raise ValueError("no image bytes in the row")
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """Find the image column (bytes, or a struct that holds `bytes`) and the integer label column."""
    import pyarrow as pa

    def is_image(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    images = [field.name for field in schema if is_image(field.type)]
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    labels = [name for name in LABEL_NAMES if name in integers] or integers
    if not images or not labels:
        raise DataError(
            f"It needs a column of image bytes and one of integer labels; it has {', '.join(schema.names)}.",
            where=path,
            hint="Write it as Hugging Face data sets do: an Image feature and a ClassLabel.",
        )
    return images[0], labels[0]


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Read class names from the Hugging Face features, where the file carries them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def open_parquet(rest: str, splits: tuple[str, ...], named: bool) -> Source:
    """Open a file, or the shards of a directory (or of its `data` folder) whose names open with a split's."""
    path = Path(rest)
    if path.is_file():
        if named and not path.name.startswith(splits[0]):
            raise DataError(
                f"A single parquet file is one split; its name does not open with {splits[0]!r}.",
                where=path,
                hint="Leave --split out, or give the directory.",
            )
        return Parquet([path], path.name.partition("-")[0] if "-" in path.name else "")
    if not path.is_dir():
        raise DataError("There is no such file or directory.", where=path, hint="Check the path after 'parquet:'.")
    folders = [path, path / "data"]
    for split in splits:
        for folder in folders:
            files = sorted({*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")})
            files = files or sorted((folder / split).glob("*.parquet"))
            if files:
                return Parquet(files, split)
    here = sorted({p.name.partition("-")[0] for folder in folders for p in folder.glob("*.parquet")})
    raise DataError(
        f"It has no parquet shards of split {' or '.join(splits)}.",
        where=path,
        hint=f"Splits there: {', '.join(here)} (--split)." if here else "There is no parquet file at all.",
    )
