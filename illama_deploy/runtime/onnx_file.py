"""What an ONNX file says of itself, read before any runtime loads it.

A file of ours is sealed: damage and edits show before it is parsed. One of other origin may hold anything, and runtimes
were seen to hang and to crash on some: so its shapes and the files that it names are looked at first, and it is tried
once in a process of its own (`trial`), with limits on time and memory.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ..errors import ArtifactError
from ..export.record import plain_name, short
from ..hashing import sha256_file
from ..onnx_metadata import EXTERNAL, PREFIX, PRODUCER
from ..onnx_seal import read_seal
from ..onnx_trial import try_apart
from ..paths import require_utf8
from ..preprocessing import Preprocessing
from ..sealed import parse_json
from ..tables import typed
from ..task_names import name_by_logits

__all__ = ["OnnxFile", "read_onnx"]

_AGAIN = "Give a file that 'illama-deploy export' wrote."
#: What protobuf holds at most.
LARGEST = 2**31 - 1
#: Elements of the largest input of one image, or of its logits.
ELEMENTS = 2**28
DEPTH = 16


@dataclass(frozen=True)
class _External:
    """A file of weights beside an ONNX file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class OnnxFile:
    """Interface and metadata of a file that takes images and gives logits.

    Attributes:
        format: `W8A8`, ...; `unknown` for a file of other origin.
        target: name of the target that it was written for, or None.
        data: `digits` where it belongs to the embedded data, or None.
        input: name of the images' input.
        size_bytes: with its weights, where they lie beside it.
        runtimes: package to the lowest version that loads it, where it says so.
        task: what the network is for, a name of `task_names`.
    """

    path: Path
    format: str
    target: str | None
    manifest_sha256: str | None
    source_sha256: str | None
    data: str | None
    input: str
    classes: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    sha256: str
    size_bytes: int
    runtimes: dict[str, str] = field(default_factory=dict)
    task: str = "classification"


def read_onnx(path: Path) -> OnnxFile:
    """Read a file's interface and metadata, and check them; of a sealed file, its seal first.

    Raises:
        ArtifactError: not ONNX, cut short, edited, another interface, metadata that cannot be used, or, of a file of
            other origin, one that a runtime does not survive.
    """
    require_utf8(path)
    try:
        if not path.is_file():
            raise ArtifactError("There is no such ONNX file.", where=path, hint="Check the path.")
        if path.stat().st_size > LARGEST:
            raise ArtifactError("It is larger than any ONNX file can be.", where=path, hint=_AGAIN)
        sealed = read_seal(path)
        model = _parse(path)
    except OSError as error:
        raise ArtifactError(f"It cannot be read: {error.strerror or error}.", where=path) from error
    props = [(entry.key, entry.value) for entry in model.metadata_props]
    about = {key.removeprefix(PREFIX): value for key, value in props if key.startswith(PREFIX)}
    if not sealed and (about or model.producer_name == PRODUCER):
        raise ArtifactError(
            "It says that it was exported by illama-deploy, and lacks the seal that is then its end.",
            where=path,
            hint="It was edited, cut short, or written by an older version: export it again.",
        )
    name, (channels, height, width), logits = _interface(model, path)
    try:
        if len(props) != len({key for key, _ in props}):
            raise ValueError("a key stands in it twice")
        external = _external(model, path.parent, about.get(EXTERNAL) if sealed else None)
        file = _describe(path, about, name, (channels, height, width), logits, external)
    except ValueError as error:
        raise ArtifactError(f"Its metadata cannot be used: {error}.", where=path, hint="Export it again.") from error
    if not sealed:
        try_apart(path, name, (channels, height, width))
    return file


def _parse(path: Path) -> onnx.ModelProto:
    """Parse a file without reading what lies beside it."""
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.output:
            raise ValueError("no graph in it")
    except OSError:
        raise
    except Exception as error:  # protobuf's errors have no base of their own
        raise ArtifactError(
            f"It cannot be read as ONNX: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            where=path,
            hint="It may be cut short; export it again.",
        ) from error
    return model


def _interface(model: onnx.ModelProto, path: Path) -> tuple[str, tuple[int, int, int], tuple[int, ...]]:
    """Name of the input, (channels, height, width) of an image, and the shape of its logits.

    Raises:
        ArtifactError: it does not take one batch of images to one batch of logits.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    values = (*inputs, *model.graph.output)
    shapes = [[_side(side) for side in value.type.tensor_type.shape.dim] for value in values]
    pixels = len(shapes) == 2 and len(shapes[1]) == 4 and shapes[1][2:] == shapes[0][2:]
    if len(inputs) != 1 or len(model.graph.output) != 1 or len(shapes[0]) != 4 or not (pixels or len(shapes[1]) == 2):
        raise ArtifactError(
            "It does not take one batch of images [batch, C, H, W] to one batch of logits [batch, classes] "
            "(or of pixels' logits [batch, classes, H, W]).",
            where=path,
            hint=_AGAIN,
        )
    (batch, *image), (_, *logits) = shapes
    fixed = [side for side in (*image, *logits) if side is not None]
    floats = {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}
    if batch is not None or len(fixed) != len(image) + len(logits) or min(fixed) < 1 or not floats:
        raise ArtifactError(
            f"It takes images {shapes[0]} to logits {shapes[1]}; float images of a fixed size in batches of any size "
            "are needed.",
            where=path,
            hint=_AGAIN,
        )
    if max(math.prod(fixed[:3]), math.prod(fixed[3:])) > ELEMENTS:
        raise ArtifactError(
            f"Its images {fixed[:3]} or logits {fixed[3:]} are larger than any that are run here.", where=path
        )
    return inputs[0].name, (fixed[0], fixed[1], fixed[2]), tuple(fixed[3:])


def _describe(
    path: Path,
    about: dict[str, str],
    name: str,
    image: tuple[int, int, int],
    logits: tuple[int, ...],
    external: dict[str, _External],
) -> OnnxFile:
    """What it says of itself, typed, and held to its interface.

    Raises:
        ValueError: it cannot be used.
    """
    said: dict[str, Any] = {
        key: parse_json(about[key]) for key in ("preprocessing", "classes", "runtimes") if key in about
    }
    class_names = typed(tuple[str, ...], said.get("classes", []))
    if len(class_names) not in (0, logits[0]):
        raise ValueError(f"it names {len(class_names)} of {logits[0]} classes")
    runtimes = typed(dict[str, str], said.get("runtimes", {}))
    for text in (*class_names, *runtimes, *runtimes.values(), *(about.get(key, "") for key in ("format", "target"))):
        short(text)
    channels, height, width = image
    sha256 = sha256_file(path)
    if external and EXTERNAL not in about:  # nothing in the file holds them
        sha256 = hashlib.sha256("".join((sha256, *(e.sha256 for e in external.values()))).encode()).hexdigest()
    return OnnxFile(
        path,
        about.get("format", "unknown"),
        about.get("target"),
        about.get("manifest_sha256"),
        about.get("source_sha256"),
        about.get("data"),
        name,
        logits[0],
        class_names,
        Preprocessing.fitting(said.get("preprocessing"), (height, width), channels),
        sha256,
        path.stat().st_size + sum(beside.bytes for beside in external.values()),
        runtimes,
        name_by_logits(logits, about.get("task")),
    )


def _external(model: onnx.ModelProto, folder: Path, said: str | None) -> dict[str, _External]:
    """The files that weights lie in, by name, held to what the file says of them; all lie in its own folder.

    Raises:
        ValueError: a tensor leads elsewhere or beyond a file's end, a file is missing, or is another.
    """
    found: dict[str, _External] = {}
    expected = typed(dict[str, _External], parse_json(said)) if said is not None else {}
    for tensor in _tensors(model.graph):
        _bounded(tensor)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = plain_name(entries.get("location", ""))
        if name not in found:
            found[name] = _beside(folder / name, expected.get(name))
        offset, length = (_count(entries.get(key)) for key in ("offset", "length"))
        if (offset or 0) + (length or 0) > found[name].bytes:
            raise ValueError(f"{tensor.name[:80]!r} ends beyond {name}")
    if said is not None and found.keys() != expected.keys():
        raise ValueError("it names other files beside it than its tensors do")
    return found


def _beside(path: Path, expected: _External | None) -> _External:
    try:
        seen = path.lstat()
    except OSError:
        raise ValueError(f"the weights beside it are missing: {path.name}") from None
    if not stat.S_ISREG(seen.st_mode):
        raise ValueError(f"{path.name} is no regular file")
    if expected is not None and seen.st_size != expected.bytes:
        raise ValueError(f"{path.name} has {seen.st_size} bytes where {expected.bytes} were written")
    found = _External(sha256_file(path), seen.st_size)
    if expected not in (None, found):
        raise ValueError(f"{path.name} is not the file that was written (its hash differs)")
    return found


def _bounded(tensor: onnx.TensorProto) -> None:
    """Refuse a constant whose shape and values do not fit, before a runtime allocates for it."""
    bits = _BITS.get(tensor.data_type)
    if any(side < 0 for side in tensor.dims) or len(tensor.dims) > DEPTH:
        raise ValueError(f"the constant {tensor.name[:80]!r} has no shape")
    if bits is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        fits = len(tensor.raw_data) == -(-count * bits // 8)
    else:
        held = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        fits = count * min(bits, 8) // 8 <= 2 * max(map(len, held))
    if not fits:
        raise ValueError(f"the constant {tensor.name[:80]!r} does not hold what its shape says")


def _tensors(graph: onnx.GraphProto, depth: int = DEPTH) -> Iterator[onnx.TensorProto]:
    """All constants of a graph and of those inside it."""
    if not depth:
        raise ValueError("its graphs are nested too deeply")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors)
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(inner, depth - 1)


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isdecimal() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} is no number of bytes")
    return int(text)


def _side(side: onnx.TensorShapeProto.Dimension) -> int | None:
    return side.dim_value if side.HasField("dim_value") else None


#: Bits of an element, of types whose elements have a fixed size.
_BITS: dict[int, int] = {
    int(kind): onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize * 8
    for kind in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT16,
        onnx.TensorProto.UINT16,
        onnx.TensorProto.INT32,
        onnx.TensorProto.UINT32,
        onnx.TensorProto.INT64,
        onnx.TensorProto.UINT64,
        onnx.TensorProto.BOOL,
        onnx.TensorProto.FLOAT8E4M3FN,
    )
} | {int(onnx.TensorProto.INT4): 4, int(onnx.TensorProto.UINT4): 4}
