"""Write a graph down as an ONNX file that says what it is, whole and sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import ExportError
from ..hashing import sha256_file
from ..onnx_metadata import EXTERNAL, PREFIX
from ..onnx_seal import append_seal

__all__ = ["write_file"]

#: Weights of more bytes lie beside the file: protobuf takes no message of 2 GiB.
LARGEST_INSIDE = 1_800_000_000
#: Smaller constants stay inside all the same: shapes, which runtimes look at while they load.
SMALLEST_OUTSIDE = 1024


def write_file(model: ir.Model, path: Path, about: Mapping[str, str]) -> list[Path]:
    """Write a model with what it says of itself, check it, and seal it.

    Args:
        about: metadata, by names without the prefix.

    Returns:
        All files: `path`, and that of the weights if they are too large for it.

    Raises:
        ExportError: the ONNX checker refuses it.
    """
    files, about = [path], dict(about)
    constants = [value for graph in model.graphs() for value in graph.initializers.values()]
    if sum(value.const_value.nbytes for value in constants if value.const_value is not None) > LARGEST_INSIDE:
        data = path.with_name(f"{path.name}.data")
        ir.external_data.unload_from_model(model, path.parent, data.name, size_threshold_bytes=SMALLEST_OUTSIDE)
        about[EXTERNAL] = json.dumps({data.name: {"sha256": sha256_file(data), "bytes": data.stat().st_size}})
        files.append(data)
    model.metadata_props.update({PREFIX + key: value for key, value in about.items()})
    ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The ONNX checker refuses the graph: {error}", where=path.name) from error
    append_seal(path)
    return files
