"""Edits of text that people write: recipes in TOML, lists of files."""

from __future__ import annotations

from .draw import Draw, edit

__all__ = ["LISTS", "TOML"]


def toml_value(content: bytes, draw: Draw) -> bytes:
    """Another value for a key."""
    return _some_line(content, draw, lambda key, _: f"{key} = {_toml(draw)}")


def toml_number(content: bytes, draw: Draw) -> bytes:
    """A number that is still one."""

    def change(key: str, value: str) -> str:
        number = value.partition("#")[0].strip()
        new = draw.rng.choice(
            (f"-{number}", f"{number}0", f"{number}.5", f"{number}e9", "0", f"[{number}]", f'"{number}"')
        )
        return f"{key} = {new}"

    return _some_line(content, draw, change)


def toml_key(content: bytes, draw: Draw) -> bytes:
    """A key misspelled, left out, written twice, or unknown."""
    return _some_line(content, draw, lambda key, value: draw.rng.choice((
        f"{key}s = {value}", "", f"{key} = {value}\n{key} = {value}", f"{key} = {value}\nunknown = {_toml(draw)}",
        f"{key}.a = {value}", f"[{key}]\na = {value}", f"[[{key}]]\n[[{key}]]", f'"{key}\\u0000" = {value}',
    )))  # fmt: skip


def toml_text(content: bytes, draw: Draw) -> bytes:
    """Another text altogether."""
    return draw.rng.choice((
        b"", b"\xff\xfe", b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r"), b"a = 1\n" * 2,
        b"[model]\n" + content,
        b"a" + b".a" * 20_000 + b" = 1\n" + content, content + b"\nx = " + b"[" * 20_000,
        b"x = " + b"[" * 500 + b"]" * 500,
        b"".join(b"[a%d]\n" % i for i in range(20_000)) + content, content + b'\nx = """' + b"y" * 1_000_000 + b'"""\n',
        content + b"\nx = {" + b"a = {" * 2_000, content + content, content.replace(b"=", b":"),
    ))  # fmt: skip


def _toml(draw: Draw) -> str:
    return draw.rng.choice((
        "true", "false", "0", "1", "-1", "2", "3", "7", "1.5", "0.5", "1e-9", "1e9", "1e308", "1e400", "nan", "inf",
        "-inf",
        "9223372036854775807", "-9223372036854775808", "9" * 400, "1000000", '""', '" "', '"text"', '"W4A8"', '"W8A8"',
        '"digits"', '"W999A999"', '"W0A0"', "[]", "{}", "[[]]", "[1]", "[1, 2]", "[0.1, 0.2, 0.3]", '["a"]',
        "[[1], [2]]",
        "{a = 1}", "{a = {b = []}}", '"\\uD7FF"', '"\\u0000"', f'"{"x" * 100_000}"', f"[{'1,' * 10_000}]", "1979-05-27",
        "1979-05-27T07:32:00Z", "0x10", "'''a\nb'''", f'"{draw.trap}"', f'"folder:{draw.trap}"', '"../../etc/passwd"',
        '"*"', '"[!]"', '["*", "["]', '"head"', '"sgd"', '"adamw"', '"rand-m9-mstd0.5-inc1"', '"cosine"', '"gptq"',
        '"mse"',
        '"minmax"', '"percentile:0"', '"percentile:101"', '"entropy"', '"nearest"', "[32, 32]", "[0, 0]", "[-1, 5]",
    ))  # fmt: skip


def _some_line(content: bytes, draw: Draw, change: object) -> bytes:
    lines = content.decode().splitlines()
    number = draw.rng.choice([n for n, line in enumerate(lines) if "=" in line and not line.startswith("#")])
    key, _, value = lines[number].partition("=")
    lines[number] = change(key.strip(), value.strip())  # type: ignore[operator]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def list_line(content: bytes, draw: Draw) -> bytes:
    """Another line in a list of files."""
    lines = content.splitlines(keepends=True)
    number = draw.rng.randrange(len(lines))
    line = lines[number]
    lines[number] = draw.rng.choice((
        b"", b"\n", line + line, b"  " + line, line[:-1] + b"\r\n", line[:-1] + b"\0\n", b"\xff" + line, b"/\n", b".\n",
        b"..\n", b"~\n", b"x" * 100_000 + b"\n", b"gone.png\n", str(draw.trap).encode() + b"\n", b"/dev/zero\n",
        b"/dev/stdin\n", b"file://" + line, b"https://localhost/" + line, line[:-1] + b" 3\n", line[:-1] + b"\t3\n",
        b"# " + line, b"list.txt\n", b'"' + line[:-1] + b'"\n', line.upper(), b"pipe:touch ../marker\n",
        line.rstrip() + b"/x\n",
    ))  # fmt: skip
    return b"".join(lines)


def list_text(content: bytes, draw: Draw) -> bytes:
    return draw.rng.choice((
        b"", b"\n\n", b"\xef\xbb\xbf" + content, content.decode().encode("utf-16"), content.replace(b"\n", b"\r"),
        content.replace(b"\n", b" "), content * 500, content.rstrip(), b"[]", content[::-1],
    ))  # fmt: skip


TOML = (
    *(edit(change, whole=True) for change in (toml_value, toml_value, toml_value, toml_number, toml_key, toml_text)),
)
LISTS = (edit(list_line, whole=True), edit(list_line, whole=True), edit(list_text, whole=True))
