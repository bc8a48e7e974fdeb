"""quantized checkpoint → one file per target, each proven."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..atomic import new_directory
from ..errors import ExportError, RuntimeUnavailableError, UsageError
from ..export.engine import RTX_CAPABILITIES, BuildOptions, Profile, build_engine, choose_flavor
from ..export.parity import Parity, measure_parity
from ..export.proofs import KernelProof
from ..export.targets import TARGETS
from ..formats import label_simulated
from ..hashing import canonical_json, sha256_file
from ..model.illama import Illama
from ..onnx_metadata import PREFIX
from ..quant import QuantizedArtifact, divide_logits, load_quantized
from ..rewrites import apply_rewrites, online_rotations
from ..versions import versions
from ..workspace import Workspace
from .images import EMBEDDED_IMAGES
from .load_checkpoint import read_source

__all__ = ["ExportResult", "export"]

SCHEMA = "illama-deploy/export/1"
#: Rewrites that make the float graph as cheap as the quantized one, so that the comparison is fair.
FLOAT_REWRITES = ("fold_norms", "fold_attention_scale", "class_token_last_block")


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        model: the quantized ONNX file; None where only the float one was asked for.
        float_model: the float file beside it (half precision for GPUs), if it was asked for.
        proof: which kernels the runtime uses, where it can be asked.
        simulated: whether a format has no kernel there and the file stands for its accuracy only.
        parity: for `verify`: layer by layer, how far the runtime is from torch.
        engines: TensorRT engines, each with its sidecar `.json` beside it.
        rotations: online rotations in the quantized file, which are float GEMMs; module name to block size.
        spelled: what became of formats of which the target takes the weights alone, by their names.
    """

    directory: Path
    model: Path | None
    float_model: Path | None
    proof: KernelProof | None = None
    simulated: bool = False
    parity: Parity | None = None
    engines: tuple[Path, ...] = ()
    rotations: Mapping[str, int] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)


def export(
    quantized: str | Path | None = None,
    *,
    target: str = "onnx-cpu",
    float: bool = True,
    float_only: bool = False,
    simulate: bool = False,
    verify: bool = False,
    temperature: float = 1.0,
    source: str | Path | None = None,
    flavor: str = "auto",
    onnx_only: bool = False,
    profile: Profile | None = None,
    compute_capabilities: Sequence[str] = (),
    build: BuildOptions | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> ExportResult:
    """Export a quantized checkpoint for a target.

    Args:
        quantized: directory that `quantize` wrote; `illama-out/quantized` where not given.
        target: `onnx-cpu`, `onnx-cuda`, `openvino` or `tensorrt`.
        float: write the float network beside it, for comparison.
        float_only: write the float network alone.
        simulate: export formats that the target has no kernel for, for accuracy only; the file says so.
        verify: compare every layer with torch before anything is kept (where the runtime is one of this CPU).
        temperature: that logits are divided by, in every file, by folding it into the head (see `evaluate`).
        source: the float checkpoint, where it no longer lies where `quantize` read it.
        flavor: for `tensorrt`: `tensorrt`, `rtx`, or `auto` (see `choose_flavor`).
        onnx_only: for `tensorrt`: write the TensorRT-ready ONNX files and build no engine.
        profile: for `tensorrt`: batch sizes (1, 8, 32).
        compute_capabilities: for the flavor `rtx`: such as "8.9"; 8.6, 8.9 and 12.0 where not given.
        build: for `tensorrt`: how long to search, and which timings to reuse.
        out: directory to make; the workspace's where not given.
        force: replace a directory that exists.

    Raises:
        DeployError: bad input, or a graph that is not what was promised; nothing is written. Where no engine can
            be built for want of a package or a GPU, the ONNX files are written all the same.
    """
    workspace = Workspace()
    path = Path(quantized) if quantized is not None else workspace.need(workspace.quantized, "quantize")
    if target not in TARGETS:
        raise UsageError(f"There is no target {target!r}.", hint=f"Use one of: {', '.join(TARGETS)}.")
    if float_only and not float:
        raise UsageError("Both --float-only and --no-float are given.", hint="Give one of them.")
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError(f"{temperature} is no temperature.", hint="Use what 'evaluate --fit-temperature' found.")
    chosen = TARGETS[target]
    out = Path(out) if out is not None else workspace.root / chosen.folder
    unavailable: RuntimeUnavailableError | None = None
    proof: KernelProof | None = None
    parity: Parity | None = None
    simulated = False
    label, spelled = "", dict[str, str]()
    engines: list[Path] = []
    files: list[str] = []
    with new_directory(out, force=force, inputs=[path, source or ""]) as directory:
        artifact = load_quantized(path)
        rotations = {} if float_only else online_rotations(artifact.model)
        about = {**_metadata(artifact), "target": target}
        divide_logits(artifact.model, temperature)
        if temperature != 1:
            about["temperature"] = repr(temperature)
        if not float_only:
            formats = artifact.formats
            simulated = chosen.simulates(artifact.model, allowed=simulate)
            label = chosen.label(about["format"], formats.values())
            spelled = chosen.spelled(formats.values())
            labelled = {**about, "format": label_simulated(label) if simulated else label}
            _write(chosen.build(artifact.model), directory / "model.onnx", labelled)
            files.append("model.onnx")
            if chosen.prove is not None and not simulated:
                try:
                    proof = chosen.prove(directory / "model.onnx", formats)
                except RuntimeUnavailableError as error:
                    unavailable = error
            if verify:
                parity = measure_parity(artifact.model, chosen).demand()
        if float:
            float_about = {
                **about,
                "format": chosen.float_format,
                "source_sha256": artifact.manifest["source"]["sha256"],
            }
            network = _float_network(artifact, source)
            divide_logits(network, temperature)
            _write(chosen.build(network), directory / "model.float.onnx", float_about)
            files.append("model.float.onnx")
        if target == "tensorrt" and not onnx_only:
            try:
                resolved = choose_flavor(flavor)
            except RuntimeUnavailableError as error:
                unavailable = error
            else:
                engines = _engines(
                    directory, files, resolved, profile or Profile(), compute_capabilities, artifact, label, build
                )
        record = {
            "schema": SCHEMA,
            "target": target,
            "manifest_sha256": artifact.manifest_sha256,
            "simulated": simulated,
            "spelled": spelled,
            "temperature": temperature,
            "files": {name: {"sha256": sha256_file(directory / name)} for name in files},
            "engines": [engine.name for engine in engines],
            "online_rotations": rotations,
            "proof": None if proof is None else proof.to_dict(),
            "parity": None if parity is None else parity.to_dict(),
            "versions": versions(
                "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"
            ),
        }
        (directory / "export.json").write_text(canonical_json(record), encoding="utf-8")
    if unavailable is not None:
        kind = "TensorRT-ready ONNX" if target == "tensorrt" else "ONNX file, unproven,"
        unavailable.where = f"the {kind} was written to {out} all the same"
        raise unavailable
    return ExportResult(
        out,
        out / "model.onnx" if "model.onnx" in files else None,
        out / "model.float.onnx" if float else None,
        proof,
        simulated,
        parity,
        tuple(out / engine.name for engine in engines),
        rotations,
        spelled,
    )


def _engines(
    directory: Path,
    files: Sequence[str],
    flavor: str,
    profile: Profile,
    compute_capabilities: Sequence[str],
    artifact: QuantizedArtifact,
    label: str,
    build: BuildOptions | None,
) -> list[Path]:
    """Build an engine from each ONNX file of the directory."""
    # FP8 came with Ada.
    has_fp8 = any(format_.base == "FP8" for format_ in artifact.formats.values())
    known = [c for c in RTX_CAPABILITIES if not has_fp8 or c != "8.6"]
    capabilities = tuple(compute_capabilities) or (tuple(known) if flavor == "rtx" else ())
    rebuild = (
        f"illama-deploy export QUANTIZED --trt --flavor {flavor} --min-batch {profile.minimum}"
        f" --opt-batch {profile.optimum} --max-batch {profile.maximum}"
        + "".join(f" --compute-capability {c}" for c in capabilities)
    )
    engines = []
    for name in files:
        engine = directory / f"{name.removesuffix('.onnx')}.engine"
        about = {
            "manifest_sha256": artifact.manifest_sha256,
            "precision": {"gemms": label if name == "model.onnx" else "float16"}
            | {"norms": "float32", "rest": "float16"},
        }
        build_engine(
            directory / name,
            engine,
            flavor=flavor,
            profile=profile,
            capabilities=capabilities,
            about=about,
            rebuild=rebuild,
            options=build,
        )
        engines.append(engine)
    return engines


def _metadata(artifact: QuantizedArtifact) -> dict[str, str]:
    manifest = artifact.manifest
    return {
        "format": manifest["format"],
        "manifest_sha256": artifact.manifest_sha256,
        "preprocessing": json.dumps(manifest["preprocessing"]),
        "classes": json.dumps(manifest["classes"]),
        **({"data": EMBEDDED_IMAGES} if manifest["data"]["kind"] == EMBEDDED_IMAGES else {}),
    }


def _write(model: ir.Model, path: Path, about: dict[str, Any]) -> None:
    model.metadata_props.update({PREFIX + key: value for key, value in about.items()})
    ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"The ONNX checker refuses the graph: {error}", where=path.name) from error


def _float_network(artifact: QuantizedArtifact, source: str | Path | None) -> Illama:
    hint = "Say where it is now with --source, or leave the float file out with --no-float."
    model = read_source(artifact, source, hint).build()
    apply_rewrites(model, FLOAT_REWRITES)
    return model
