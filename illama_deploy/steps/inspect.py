"""What an artifact is made of: formats, errors and sensitivity site by site, or each layer's precision and time."""

from __future__ import annotations

from pathlib import Path

from ..atomic import new_file
from ..errors import ArtifactError, DeployError, UsageError, parameter
from ..export.record import RECORD, read_record
from ..hashing import canonical_json
from ..options import step
from ..options.steps import InspectOptions
from ..quant import load_quantized
from ..quant.artifact import MANIFEST
from ..report.renderers import render_inspection
from ..report.rows import SITE_COLUMNS, site_rows
from ..targets import TARGETS, Target, find_target
from ..targets import LayerTable as Inspection
from ..targets.open import find_file
from .shared.inputs import refuse_stale
from .shared.sites import describe_sites

__all__ = ["Inspection", "inspect"]


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
        raise UsageError(
            "The number of images must not be negative.", hint=f"Use {parameter(images=0)} for no sensitivity."
        )
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
    if (path / MANIFEST).is_file():
        return _parity(path, target) if parity else _quantized(path, images)
    if (found := find_file(path)) is not None:
        running = path / found.target.model if path.is_dir() else found.path
        return found.target.layers(running if running.is_file() else found.path)
    raise ArtifactError(
        "It is no quantized checkpoint, and no export.",
        where=path,
        hint="Give a directory that 'quantize' or 'export' wrote, or a file of an export.",
    )


def _parity(path: Path, name: str) -> Inspection:
    """Each GEMM's agreement with torch."""
    target, network = find_target(name, exports=True), load_quantized(path).model
    target.simulates(network, allowed=True)
    result = target.parity(network)
    rows: list[tuple[str, ...]] = [(layer.name, f"{layer.sqnr_db:.1f}") for layer in result.layers]
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
    for target in TARGETS.values():
        directory = path.absolute().parent / target.folder
        if (shares := _shares_by_site(target, directory, found["manifest_sha256"])) is not None:
            columns = (*columns, "kernel", "time %")
            for i, site in enumerate(found["sites"]):
                kernel, share = shares.get(site["name"], ("–", None))
                site |= {"kernel": kernel, "time_share": share}
                rows[i] = (*rows[i], kernel, "–" if share is None else f"{100 * share:.1f}")
            rest = 1 - sum(share for _, share in shares.values())
            lines.append(f"kernels and shares of latency: {target.runtime}, {directory.name}; else {100 * rest:.0f} %")
            break
    return Inspection(columns, rows, "\n".join(lines), found)


def _shares_by_site(target: Target, directory: Path, manifest_sha256: str) -> dict[str, tuple[str, float]] | None:
    """Kernel and share of latency of each site in an export of this checkpoint; None where there is none."""
    try:
        if not (directory / RECORD).is_file() or read_record(directory).manifest_sha256 != manifest_sha256:
            return None
        layers = target.layers(directory / target.model).figures["layers"]
    except DeployError:
        return None
    sites: dict[str, tuple[str, float]] = {}
    for layer in layers:
        if layer.get("site") is not None and layer.get("time_share") is not None:
            _, share = sites.get(layer["site"], ("", 0.0))
            sites[layer["site"]] = (layer["kernel"], share + layer["time_share"])
    return sites or None
