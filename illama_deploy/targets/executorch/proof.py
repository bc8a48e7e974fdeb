"""Proof of integer execution, read from the program itself: which operators its one delegate holds, on which types."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ...export.proof import KernelProof, LayerPrecision, required_precision
from ...formats import Format
from .quiet import quiet

__all__ = ["prove_program"]

DELEGATE = "XnnpackBackend"
#: XNNPACK's names of types, as everybody else calls them.
TYPES = {"fp32": "float32", "fp16": "float16", "qdint8": "int8", "qint8": "int8", "qcint8": "int8", "qcint4": "int8"}
#: Nodes that only arrange.
BOOKKEEPING = ("StaticReshape", "StaticTranspose", "StaticSlice", "Concatenate", "StaticConstantPad", "Copy")


def prove_program(path: Path, gemms: Sequence[str], sites: Mapping[str, Format]) -> KernelProof:
    """Read the operators of a program's delegate.

    Args:
        gemms: names of its GEMMs of weights and of constants, in the order in which they run.
        sites: the quantized sites and their formats.

    Raises:
        ExportError: a quantized GEMM does not run on an integer kernel, or something runs outside the delegate.
    """
    graph = _delegate(path)
    types = {}
    for value in graph["xvalues"]:
        about = value["xvalue_union"].get("tensor_value", value["xvalue_union"])
        types[about["id_out"]] = about["datatype"].removeprefix("xnn_datatype_")
    names, counts = iter(gemms), Counter[str]()
    layers: list[LayerPrecision] = []
    for node in graph["xnodes"]:
        kind, about = node["xnode_union_type"].removeprefix("XNN"), node["xnode_union"]
        if kind.startswith(BOOKKEEPING):
            continue
        counts[kind] += 1
        name = f"{kind}.{counts[kind]}"
        kernel, site = kind, None
        precision = TYPES.get(taken := _taken(about, types), taken)
        if kind == "FullyConnected":
            name, weight = next(names, name), types[about["filter_id"]]
            kernel = f"{kind} {taken} x {weight}"
            precision = TYPES.get(weight, weight) if precision == "int8" else precision
            site = name if precision != "float32" else None
        elif kind == "Convert":
            precision = TYPES.get(types[about["output_id"]], "unknown")
        layers.append(LayerPrecision(name, kernel, precision, kind in ("FullyConnected", "BatchMatrixMultiply"), site))
    if next(names, None) is not None or counts["FullyConnected"] != len(gemms):
        raise ExportError(
            f"The program holds {counts['FullyConnected']} GEMMs where {len(gemms)} were written.", where=path.name
        )
    expected = {name: required_precision(format_) for name, format_ in sites.items()}
    return KernelProof(expected, tuple(layers)).demand("XNNPACK", path)


def _taken(about: Mapping[str, Any], types: Mapping[int, str]) -> str:
    """Type of a node's first input."""
    return types.get(about.get("input_id", about.get("input1_id", -1)), "unknown")


def _delegate(path: Path) -> dict[str, Any]:
    """The graph of a program's one delegate, as XNNPACK's own schema describes it.

    Raises:
        ExportError: something runs outside a delegate.
    """
    with quiet(native=True):
        import executorch
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
        from executorch.exir._serialize._program import deserialize_pte_binary

        program = deserialize_pte_binary(path.read_bytes()).program
    [plan] = program.execution_plan
    outside = [operator.name for operator in plan.operators]
    if outside or [delegate.id for delegate in plan.delegates] != [DELEGATE]:
        raise ExportError(
            f"Not everything runs in one delegate of XNNPACK: {', '.join(outside[:5]) or len(plan.delegates)}.",
            where=path.name,
        )
    payload = program.backend_delegate_data[plan.delegates[0].processed.index].data
    header = XNNHeader.from_bytes(bytes(payload[: XNNHeader.EXPECTED_LENGTH]))
    graph = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    root = Path(next(iter(executorch.__path__)))
    schema = root / "backends" / "xnnpack" / "serialization" / "runtime_schema.fbs"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.bin"
        file.write_bytes(bytes(graph))
        asked = ("--json", "--strict-json", "--defaults-json", "--raw-binary", "-o", folder, schema, "--", file)
        done = subprocess.run([root / "data" / "bin" / "flatc", *asked], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(f"The delegate's graph cannot be read: {done.stderr.strip()[:200]}", where=path.name)
        read: dict[str, Any] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    return read
