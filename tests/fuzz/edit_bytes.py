"""Edits of any file: what disks, copies and downloads do to it."""

from __future__ import annotations

from .draw import Draw, edit

__all__ = ["BYTES"]


def bit_flip(content: bytes, draw: Draw) -> bytes:
    return bit_flips(content, draw, 1)


def bit_flips(content: bytes, draw: Draw, number: int = 0) -> bytes:
    changed = bytearray(content)
    for _ in range(number or draw.rng.randint(2, 64)):
        position = draw.rng.randrange(8 * len(changed))
        changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


def head_flips(content: bytes, draw: Draw) -> bytes:
    """Where a file says what it is."""
    size = min(len(content), draw.rng.choice((16, 64, 1024)))
    return bit_flips(content[:size], draw, draw.rng.randint(1, 4)) + content[size:]


def tail_flips(content: bytes, draw: Draw) -> bytes:
    """Where zip and parquet keep their tables."""
    size = min(len(content), draw.rng.choice((16, 64, 1024, 4096)))
    return content[:-size] + bit_flips(content[-size:], draw, draw.rng.randint(1, 4))


def byte_run(content: bytes, draw: Draw) -> bytes:
    start, size = _span(content, draw)
    return content[:start] + draw.rng.randbytes(size) + content[start + size :]


def zero_fill(content: bytes, draw: Draw) -> bytes:
    start, size = _span(content, draw)
    return content[:start] + bytes(size) + content[start + size :]


def cut_short(content: bytes, draw: Draw) -> bytes:
    return content[: draw.rng.choice((0, 1, 8, len(content) - 1, draw.rng.randrange(len(content))))]


def cut_out(content: bytes, draw: Draw) -> bytes:
    start, size = _span(content, draw)
    return content[:start] + content[start + size :]


def twice(content: bytes, draw: Draw) -> bytes:
    start, size = _span(content, draw)
    return content[: start + size] + content[start:]


def appended(content: bytes, draw: Draw) -> bytes:
    return content + draw.rng.choice((b"\0", b"\n", draw.rng.randbytes(64), bytes(1 << 20)))


def spliced(content: bytes, draw: Draw) -> bytes:
    """One file's beginning, another's end."""
    other = draw.rng.choice(draw.others).read_bytes()
    return content[: draw.rng.randint(0, len(content))] + other[draw.rng.randint(0, len(other)) :]


def replaced(content: bytes, draw: Draw) -> bytes:
    """Another file altogether under this name."""
    return draw.rng.choice(draw.others).read_bytes()


def _span(content: bytes, draw: Draw) -> tuple[int, int]:
    size = min(len(content), draw.rng.choice((1, 4, 64, 4096)))
    return draw.rng.randint(0, len(content) - size), size


BYTES = tuple(
    map(edit, (bit_flip, bit_flips, head_flips, tail_flips, byte_run, zero_fill, cut_short, cut_out, twice, appended,
               spliced, replaced))
)  # fmt: skip
