"""quantized checkpoint → one file per target, each proven."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..atomic import new_directory
from ..checkpoint import read_checkpoint
from ..errors import ArtifactError, CheckpointError, ExportError
from ..export.proof import KernelProof, prove_integer_kernels
from ..export.targets import TARGETS
from ..hashing import canonical_json, sha256_file
from ..model.illama import Illama
from ..onnx_metadata import PREFIX
from ..quant import QuantizedArtifact, load_quantized
from ..rewrites import apply_rewrites
from ..versions import versions
from ..workspace import Workspace

__all__ = ["ExportResult", "export"]

SCHEMA = "illama-deploy/export/1"
#: Rewrites that make the float graph as cheap as the quantized one, so that the comparison is fair.
FLOAT_REWRITES = ("fold_norms", "fold_attention_scale", "class_token_last_block")


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        model: the quantized file.
        float_model: the float file beside it, if it was asked for.
        proof: which kernels the runtime uses.
    """

    directory: Path
    model: Path
    float_model: Path | None
    proof: KernelProof


def export(
    quantized: str | Path | None = None,
    *,
    target: str = "onnx-cpu",
    float: bool = True,
    source: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> ExportResult:
    """Export a quantized checkpoint to ONNX for a target.

    Args:
        quantized: directory that `quantize` wrote; `illama-out/quantized` where not given.
        target: `onnx-cpu`.
        float: write the float network beside it, for comparison.
        source: the float checkpoint, where it no longer lies where `quantize` read it.
        out: directory to make; the workspace's where not given.
        force: replace a directory that exists.

    Raises:
        DeployError: bad input, or a quantized GEMM without an integer kernel; nothing is written.
    """
    workspace = Workspace()
    path = Path(quantized) if quantized is not None else workspace.need(workspace.quantized, "quantize")
    chosen = TARGETS[target]
    out = Path(out) if out is not None else workspace.root / chosen.folder
    with new_directory(out, force=force, inputs=[path, source or ""]) as directory:
        artifact = load_quantized(path)
        about = _metadata(artifact)
        _write(chosen.build(artifact.model), directory / "model.onnx", about)
        proof = prove_integer_kernels(directory / "model.onnx", artifact.sites)
        files = ["model.onnx"]
        if float:
            network = _float_network(artifact, source)
            about = {**about, "format": "float32", "source_sha256": artifact.manifest["source"]["sha256"]}
            _write(chosen.build(network), directory / "model.float.onnx", about)
            files.append("model.float.onnx")
        record = {
            "schema": SCHEMA,
            "target": target,
            "manifest_sha256": artifact.manifest_sha256,
            "files": {name: {"sha256": sha256_file(directory / name)} for name in files},
            "kernels": asdict(proof),
            "versions": versions("onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu"),
        }
        (directory / "export.json").write_text(canonical_json(record), encoding="utf-8")
    return ExportResult(out, out / "model.onnx", out / "model.float.onnx" if float else None, proof)


def _metadata(artifact: QuantizedArtifact) -> dict[str, str]:
    manifest = artifact.manifest
    return {
        "format": manifest["format"],
        "manifest_sha256": artifact.manifest_sha256,
        "preprocessing": json.dumps(manifest["preprocessing"]),
        "classes": json.dumps(manifest["classes"]),
        "data": manifest["data"]["spec"],
    }


def _write(model: ir.Model, path: Path, about: dict[str, Any]) -> None:
    model.metadata_props.update({PREFIX + key: value for key, value in about.items()})
    ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"The ONNX checker refuses the graph: {error}", where=path.name) from error


def _float_network(artifact: QuantizedArtifact, source: str | Path | None) -> Illama:
    origin = artifact.manifest["source"]
    config = artifact.model.config
    hint = "Say where it is now with --source, or leave the float file out with --no-float."
    try:
        checkpoint = read_checkpoint(
            source or origin["path"], heads=config.heads, image_size=config.image_size, ema=origin["ema"]
        )
    except CheckpointError as error:
        raise CheckpointError(
            f"The float checkpoint cannot be read: {error.what}", where=error.where, hint=hint
        ) from error
    if checkpoint.sha256 != origin["sha256"]:
        raise ArtifactError(
            "The float checkpoint is not the one that was quantized (its hash differs).",
            where=checkpoint.path,
            hint=hint,
        )
    model = checkpoint.build()
    apply_rewrites(model, FLOAT_REWRITES)
    return model
