"""What an artefact is made of: formats and errors site by site, or the precision that each layer really runs in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError, UsageError
from ..export.parity import measure_parity
from ..export.sidecar import read_sidecar
from ..export.targets import TARGETS
from ..quant import load_quantized
from ..quant.artifact import MANIFEST

__all__ = ["Inspection", "inspect"]

EXPORT = "export.json"


@dataclass(frozen=True)
class Inspection:
    """A table.

    Attributes:
        summary: one line about all of it.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    summary: str


def inspect(artifact: str | Path, *, parity: bool = False, target: str = "onnx-cpu") -> Inspection:
    """Look into a quantized directory, an export's directory, or an engine.

    Args:
        artifact: a quantized directory (sites with format, clipping threshold and SQNR against float), the directory
            of an export (layers with kernel and precision, as proven when it was written), or an `.engine`.
        parity: of a quantized directory: compare every GEMM in the target's runtime with torch instead, up to the
            first that departs.
        target: for `parity`.

    Raises:
        DeployError: nothing there, damaged, or nothing to be said of it.
    """
    path = Path(artifact)
    if path.suffix == ".engine":
        layers = read_sidecar(path).record["layers"]
        rows: list[tuple[str, ...]] = [(layer["name"], layer["type"], layer["precision"]) for layer in layers["list"]]
        return Inspection(("layer", "type", "precision"), rows, f"{len(rows)} layers, from the {layers['from']}")
    if (path / EXPORT).is_file():
        return _exported(path / EXPORT)
    if not (path / MANIFEST).is_file():
        raise ArtifactError(
            "It is no quantized checkpoint, no export and no engine.",
            where=path,
            hint="Give a directory that 'quantize' or 'export' wrote, or an .engine file.",
        )
    quantized = load_quantized(path)
    if parity:
        if target not in TARGETS:
            raise UsageError(f"There is no target {target!r}.", hint=f"Use one of: {', '.join(TARGETS)}.")
        TARGETS[target].simulates(quantized.formats.values(), allowed=True)
        result = measure_parity(quantized.model, TARGETS[target])
        rows = [(layer.name, f"{layer.sqnr_db:.1f}") for layer in result.layers]
        return Inspection(("GEMM", "dB against torch"), rows, str(result))
    rows = []
    for name, site in quantized.manifest["sites"].items():
        thresholds = ", ".join(
            f"{values['threshold']:.4g} of {values['max']:.4g}" for values in site["inputs"].values()
        )
        rows.append((name, site["format"], thresholds or "–", f"{site['sqnr_db']:.1f}"))
    summary = f"{len(rows)} sites; logit SQNR {quantized.manifest['logit_sqnr_db']:.1f} dB against float"
    return Inspection(("site", "format", "clipped at, of the largest seen", "SQNR dB"), rows, summary)


def _exported(path: Path) -> Inspection:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        proof = record["proof"]
        if proof is None:
            raise ArtifactError(
                f"Nothing was proven when it was written for {record['target']}.",
                where=path,
                hint="Of TensorRT give the .engine; simulated formats have no kernels to prove.",
            )
        rows: list[tuple[str, ...]] = [
            (layer["name"], layer["kernel"], layer["precision"]) for layer in proof["layers"]
        ]
        return Inspection(("layer", "kernel", "precision"), rows, str(proof["summary"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"The record of the export cannot be used: {error}.", where=path, hint="Export it again."
        ) from error
