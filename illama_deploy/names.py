"""Names as they can be shown: of files, folders and classes, which may hold any bytes."""

from __future__ import annotations

__all__ = ["shown"]


def shown(name: object, *, keep: str = "") -> str:
    """The name as text that every terminal, file and encoder takes: bytes that are not UTF-8 as `\\xe4`, line feeds and
    what else cannot be printed as escapes; the rest as it is.

    Args:
        keep: characters to leave as they are, such as line feeds in a message.
    """
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name, as Python hands it over
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
