"""What an exported ONNX file says of itself, read before any runtime loads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..errors import ArtifactError, UsageError
from ..hashing import sha256_file
from ..onnx_metadata import PREFIX
from ..preprocessing import Preprocessing, default_preprocessing

__all__ = ["OnnxFile", "read_onnx"]

_AGAIN = "Give a file that 'illama-deploy export' wrote."


@dataclass(frozen=True)
class OnnxFile:
    """Interface and metadata of a file that takes images and gives logits.

    Attributes:
        format: `W8A8`, ...; `unknown` for a file of other origin.
        target: name of the target that it was written for, or None.
        input: name of the images' input.
        task: `classification`, or `segmentation` where every pixel has logits.
    """

    path: Path
    format: str
    target: str | None
    manifest_sha256: str | None
    data: str | None
    input: str
    classes: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    sha256: str
    task: str = "classification"


def read_onnx(path: Path) -> OnnxFile:
    """Read a file's interface and metadata, and check them.

    Raises:
        ArtifactError: not ONNX, cut short, another interface, or metadata that cannot be used.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.output:
            raise ValueError("no graph in it")
    except Exception as error:  # protobuf's errors have no base of their own
        raise ArtifactError(
            f"It cannot be read as ONNX: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            where=path,
            hint="It may be cut short; export it again.",
        ) from error
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    shapes = [[_side(side) for side in value.type.tensor_type.shape.dim] for value in (*inputs, *model.graph.output)]
    pixels = len(shapes[1]) == 4 and shapes[1][2:] == shapes[0][2:]
    if len(inputs) != 1 or len(model.graph.output) != 1 or len(shapes[0]) != 4 or not (pixels or len(shapes[1]) == 2):
        raise ArtifactError(
            "It does not take one batch of images [batch, C, H, W] to one batch of logits [batch, classes] "
            "(or of pixels' logits [batch, classes, H, W]).",
            where=path,
            hint=_AGAIN,
        )
    batch, channels, height, width = shapes[0]
    classes = shapes[1][1]
    if (
        batch is not None
        or channels is None
        or height is None
        or width is None
        or classes is None
        or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT
    ):
        raise ArtifactError(
            f"It takes images {shapes[0]}; float images of a fixed size in batches of any size are needed.",
            where=path,
            hint=_AGAIN,
        )
    about = {
        entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)
    }
    try:
        class_names = tuple(json.loads(about.get("classes", "[]")))
        preprocessing = (
            Preprocessing.from_dict(json.loads(about["preprocessing"]))
            if "preprocessing" in about
            else default_preprocessing((height, width), channels)
        )
        if (preprocessing.channels, *preprocessing.size) != (channels, height, width):
            raise ValueError("its preprocessing does not fit its input")
    except (UsageError, TypeError, ValueError) as error:
        problem = error.what if isinstance(error, UsageError) else str(error)
        raise ArtifactError(
            f"Its metadata cannot be used: {problem.rstrip('.')}.", where=path, hint="Export it again."
        ) from error
    return OnnxFile(
        path,
        about.get("format", "unknown"),
        about.get("target"),
        about.get("manifest_sha256"),
        about.get("data"),
        inputs[0].name,
        classes,
        class_names,
        preprocessing,
        sha256_file(path),
        "segmentation" if pixels else "classification",
    )


def _side(side: onnx.TensorShapeProto.Dimension) -> int | None:
    return side.dim_value if side.HasField("dim_value") else None
