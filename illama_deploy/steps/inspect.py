"""What an artifact is made of: formats, errors and sensitivity site by site, or each layer's precision and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..atomic import new_file
from ..errors import ArtifactError, DeployError, UsageError
from ..export.float_graph import SITE
from ..export.parity import measure_parity
from ..export.proofs import prove_onnxruntime, prove_openvino
from ..export.proofs.openvino_cpu import BOOKKEEPING
from ..export.record import RECORD, read_record
from ..export.sidecar import read_sidecar
from ..export.targets import TARGETS
from ..hashing import canonical_json
from ..measure.layer_times import onnxruntime_times, openvino_times
from ..options import step
from ..options.steps import InspectOptions
from ..quant import load_quantized
from ..quant.artifact import MANIFEST
from ..report.faces import render_inspection
from ..report.rows import SITE_COLUMNS, site_rows
from ..runtime.onnx_file import read_onnx
from .inputs import refuse_stale
from .sensitivity import describe_sites

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True)
class Inspection:
    """A table.

    Attributes:
        summary: lines about all of it.
        figures: the same as plain values, for JSON.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)


@step(InspectOptions)
def inspect(options: InspectOptions) -> Inspection:
    """Look into a quantized directory, an export, or an engine.

    Raises:
        DeployError: nothing there, damaged, or nothing to be said of it.
    """
    artifact, images, figures = options.artifact, options.images, options.figures
    if artifact is None:
        raise UsageError("Nothing to look into.", hint="Name an artifact.")
    if images < 0:
        raise UsageError("The number of images must not be negative.", hint="Use --images 0 for no sensitivity.")
    refuse_stale(artifact)
    result = _look(Path(artifact), options.parity, options.target, images)
    for path, text in (
        (figures.json, canonical_json(result.figures)),
        (figures.html, render_inspection(str(artifact), result)),
    ):
        if path is not None:
            with new_file(path, force=True, inputs=[artifact]) as file:
                file.write_text(text, encoding="utf-8")
    return result


def _look(path: Path, parity: bool, target: str, images: int) -> Inspection:
    if path.suffix == ".engine":
        sidecar, columns = read_sidecar(path), ("layer", "type", "precision")
        rows: list[tuple[str, ...]] = [*sidecar.layers]
        figures = [dict(zip(("name", *columns[1:]), row, strict=True)) for row in rows]
        return Inspection(columns, rows, f"{len(rows)} layers, from the {sidecar.layers_from}", {"layers": figures})
    if path.suffix == ".onnx" or (path / RECORD).is_file():
        names = [path] if path.suffix == ".onnx" else [path / "model.onnx", path / "model.float.onnx"]
        return _exported(next((name for name in names if name.is_file()), names[0]))
    if not (path / MANIFEST).is_file():
        raise ArtifactError(
            "It is no quantized checkpoint, no export and no engine.",
            where=path,
            hint="Give a directory that 'quantize' or 'export' wrote, an .onnx file or an .engine.",
        )
    if not parity:
        return _quantized(path, images)
    quantized = load_quantized(path)
    if target not in TARGETS:
        raise UsageError(f"There is no target {target!r}.", hint=f"Use one of: {', '.join(TARGETS)}.")
    TARGETS[target].simulates(quantized.model, allowed=True)
    result = measure_parity(quantized.model, TARGETS[target])
    rows = [(layer.name, f"{layer.sqnr_db:.1f}") for layer in result.layers]
    return Inspection(("GEMM", "dB against torch"), rows, str(result), result.to_dict())


def _quantized(path: Path, images: int) -> Inspection:
    """Sites, with the share of latency of the first export that lies beside."""
    found = describe_sites(path, images)
    columns: tuple[str, ...] = SITE_COLUMNS
    rows: list[tuple[str, ...]] = [*site_rows(found)]
    lines = [f"{len(rows)} sites; logit SQNR {found['logit_sqnr_db']:.1f} dB against float"]
    if found["not_measured"] is None:
        worst = min(found["sites"], key=lambda site: site["alone_db"])
        lines.append(
            f"most sensitive: {worst['name']}, {worst['alone_db']:.1f} dB alone, {100 * worst['noise_share']:.0f} % of "
            f"the noise ({found['images']} images); to leave it in float: quantize --exclude {worst['name']}"
        )
    else:
        lines.append(f"sensitivity was not measured: {found['not_measured']}")
    for target in (TARGETS["onnx-cpu"], TARGETS["openvino"]):
        directory = path.absolute().parent / target.folder
        if (shares := _shares_by_site(directory, found["manifest_sha256"])) is not None:
            columns = (*columns, "kernel", "time %")
            for i, site in enumerate(found["sites"]):
                kernel, share = shares.get(site["name"], ("–", None))
                site |= {"kernel": kernel, "time_share": share}
                rows[i] = (*rows[i], kernel, "–" if share is None else f"{100 * share:.1f}")
            rest = 1 - sum(share for _, share in shares.values())
            lines.append(f"kernels and shares of latency: {target.runtime}, {directory.name}; else {100 * rest:.0f} %")
            break
    return Inspection(columns, rows, "\n".join(lines), found)


def _shares_by_site(directory: Path, manifest_sha256: str) -> dict[str, tuple[str, float]] | None:
    """Kernel and share of latency of each site in an export of this checkpoint; None where there is none."""
    try:
        if not (directory / RECORD).is_file() or read_record(directory).manifest_sha256 != manifest_sha256:
            return None
        layers, _ = _layers(directory / "model.onnx")
    except DeployError:
        return None
    sites: dict[str, tuple[str, float]] = {}
    for layer in layers:
        if layer["site"] is not None and layer["time_share"] is not None:
            _, share = sites.get(layer["site"], ("", 0.0))
            sites[layer["site"]] = (layer["kernel"], share + layer["time_share"])
    return sites or None


def _exported(path: Path) -> Inspection:
    layers, summary = _layers(path)
    rows: list[tuple[str, ...]] = [
        (
            layer["name"],
            layer["kernel"],
            layer["precision"],
            "–" if layer["time_share"] is None else f"{100 * layer['time_share']:.1f}",
        )
        for layer in layers
    ]
    counts = Counter(layer["precision"] for layer in layers)
    told = ", ".join(f"{count} in {precision}" for precision, count in counts.most_common())
    return Inspection(
        ("layer", "kernel", "precision", "time %"), rows, f"{summary}\n{len(rows)} layers: {told}", {"layers": layers}
    )


def _layers(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Layers of an exported file with kernel, precision, site and share of latency, and a line about them.

    As proven when it was exported, where that record lies beside it; else as the runtime says now.
    """
    file = read_onnx(path)
    proof = _recorded(path, file.sha256)
    openvino = file.target == "openvino"
    if proof is None and file.target in ("onnx-cuda", "tensorrt"):
        raise ArtifactError(
            f"Nothing was proven when it was written for {file.target}.",
            where=path,
            hint="Of TensorRT give the .engine; what CUDA does with a file is known on a GPU only.",
        )
    if proof is None:
        prove = prove_openvino if openvino else prove_onnxruntime
        proof = prove(path, {}).to_dict()
    nodes = ir.traversal.RecursiveGraphIterator(ir.load(path).graph)  # those inside loops too
    sites = {node.name: node.metadata_props.get(SITE) for node in nodes}
    layers = [{**layer, "site": sites.get(layer["site"] or layer["name"])} for layer in proof["layers"]]
    times = _openvino_seconds(path, layers) if openvino else _onnxruntime_seconds(path, layers)
    total = sum(second for second in times if second is not None)
    for layer, second in zip(layers, times, strict=True):
        layer["time_share"] = second / total if second is not None and total else None
    return layers, str(proof["summary"])


def _recorded(path: Path, sha256: str) -> dict[str, Any] | None:
    return read_record(path.parent).proof_of(path.name, sha256) if (path.parent / RECORD).is_file() else None


def _onnxruntime_seconds(path: Path, layers: list[dict[str, Any]]) -> list[float | None]:
    times: Mapping[str, float] = onnxruntime_times(path)
    return [times.get(layer["name"]) for layer in layers]


def _openvino_seconds(path: Path, layers: list[dict[str, Any]]) -> list[float | None]:
    """The proof lists the computing layers in the order in which they run, and so does the profile."""
    times = [(kind, seconds) for kind, seconds in openvino_times(path) if kind not in BOOKKEEPING]
    if [kind for kind, _ in times] != [layer["kernel"].split(" ")[0] for layer in layers]:
        return [None] * len(layers)  # written on another machine, or by another version
    return [seconds for _, seconds in times]
