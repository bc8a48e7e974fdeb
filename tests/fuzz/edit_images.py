"""Edits of images and of parquet files with images."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .draw import Draw, edit

__all__ = ["IMAGES", "PARQUET"]


def png_chunk(content: bytes, draw: Draw) -> bytes:
    """A PNG's chunk with other fields, its sum right."""
    chunks = _chunks(content)
    if not chunks:
        return content[: len(content) // 2]
    kind, body = chunks[0]
    what = draw.rng.randrange(7)
    width, height, depth, color, *rest = struct.unpack(">IIBBBBB", body)
    if what == 0:
        size = draw.rng.choice((0, 1, 100_000, 2**31 - 1))
        chunks[0] = kind, struct.pack(">IIBBBBB", size, draw.rng.choice((size, height)), depth, color, *rest)
    elif what == 1:
        chunks[0] = (
            kind,
            struct.pack(">IIBBBBB", width, height, draw.rng.choice((1, 3, 16, 255)), draw.rng.randrange(8), *rest),
        )
    elif what == 2:
        chunks.insert(1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26), 9)))
    elif what == 3:
        chunks.insert(1, (b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26), 9)))
    elif what == 4:
        chunks = [
            (kind, zlib.compress(bytes(1 << 27), 9)) if kind == b"IDAT" else (kind, body) for kind, body in chunks
        ]
    elif what == 5:
        del chunks[draw.rng.randrange(len(chunks))]
    else:
        chunks.insert(
            1, (draw.rng.choice((b"PLTE", b"tRNS", b"acTL", b"eXIf", b"gAMA", b"IDAT")), draw.rng.randbytes(6))
        )
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def other_image(content: bytes, draw: Draw) -> bytes:
    """A whole image of another kind under the same name."""
    image = Image.open(io.BytesIO(content))
    mode = draw.rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr"))
    size = draw.rng.choice((image.size, (1, 1), (1, 4000), (4000, 1), (5000, 5000), (3, 500)))
    changed = (
        image.convert("L").resize(size).convert(mode)
        if mode != "I;16"
        else image.convert("I").resize(size).convert(mode)
    )
    for name in draw.rng.sample(
        ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "EPS", "PDF", "SGI"), 12
    ):
        out = io.BytesIO()
        try:
            changed.save(out, name)
            return out.getvalue()
        except (OSError, ValueError, KeyError):
            continue
    return b""


def table(content: bytes, draw: Draw) -> bytes:
    """Another table: columns left out, renamed, of other types; labels and images that are none."""
    rows: dict[str, Any] = pq.read_table(io.BytesIO(content)).to_pydict()
    images, labels = rows["image"], rows["label"]
    number = draw.rng.randrange(len(labels))
    what = draw.rng.randrange(14)
    if what == 0:
        del rows[draw.rng.choice(list(rows))]
    elif what == 1:
        rows[draw.rng.choice(("x", "", "img", "labels"))] = rows.pop(draw.rng.choice(list(rows)))
    elif what == 2:
        rows["label"] = [draw.rng.choice((-1, 10, 2**40)) if i == number else label for i, label in enumerate(labels)]
    elif what == 3:
        rows["label"] = draw.rng.choice(([str(label) for label in labels], [None] * len(labels), [[1]] * len(labels)))
    elif what == 4:
        rows["label"] = [label + draw.rng.choice((0, 0.5)) for label in labels]
    elif what == 5:
        rows["image"] = [None if i == number else image for i, image in enumerate(images)]
    elif what == 6:
        images[number] = {**images[number], "bytes": draw.rng.choice((b"", None, b"text", draw.rng.randbytes(500)))}
    elif what == 7:
        images[number] = {**images[number], "bytes": png_chunk(images[number]["bytes"], draw)}
    elif what == 8:
        images[number] = {**images[number], "bytes": other_image(images[number]["bytes"], draw)}
    elif what == 9:
        rows["image"] = [{"bytes": None, "path": str(draw.trap)} for _ in images]
    elif what == 10:
        rows["image"] = draw.rng.choice(
            ([image["bytes"] for image in images], ["text"] * len(images), list(range(len(images))))
        )
    elif what == 11:
        rows = {key: [] for key in rows}
    elif what == 12:
        rows = {**rows, draw.rng.choice(("index", "a_label", "Label")): labels[::-1]}
    else:
        rows = {key: values[::-1] for key, values in rows.items()}
    out = io.BytesIO()
    options: dict[str, Any] = {"compression": draw.rng.choice(("snappy", "gzip", "zstd", "none"))}
    try:
        pq.write_table(
            pa.table(rows).replace_schema_metadata({"huggingface": "[" * 50_000 if what == 0 else "{}"}), out, **options
        )
    except (pa.ArrowException, TypeError, ValueError):
        return b"PAR1"
    return out.getvalue()


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while content[:4] == b"\x89PNG" and at < len(content):
        size = int.from_bytes(content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


IMAGES = tuple(edit(change, whole=True) for change in (png_chunk, png_chunk, other_image))
PARQUET = tuple(edit(change, whole=True) for change in (table, table, table))
