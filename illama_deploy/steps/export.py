"""quantized checkpoint → one file per target, each proven."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint import EMBEDDED, Checkpoint, read_checkpoint
from ..errors import RuntimeUnavailableError, UsageError
from ..export.batches import proof_batches, prove_batches
from ..export.proof import KernelProof
from ..export.record import ExportRecord, FileRecord, ParityRecord, ProofRecord
from ..formats import label_simulated
from ..hashing import sha256_file
from ..model.illama import Illama, IllamaConfig
from ..options import step
from ..options.groups import Geometry
from ..options.steps import ExportOptions
from ..preprocessing import Preprocessing
from ..quant import QuantizedArtifact, divide_logits, load_quantized
from ..rewrites import apply_rewrites, online_rotations
from ..tables import typed
from ..targets import TARGETS, Target, find_target
from ..targets.parity import Parity
from ..targets.target import BuildAbout
from ..versions import versions
from ..workspace import Workspace
from .images import EMBEDDED_IMAGES
from .inputs import choose_network, paths_of
from .load_checkpoint import read_source

__all__ = ["ExportResult", "export"]

#: Rewrites that make the float graph as cheap as the quantized one, so that the comparison is fair.
FLOAT_REWRITES = ("fold_norms", "fold_attention_scale", "class_token_last_block")


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        model: the quantized file; None where only the float one was asked for.
        float_model: the float file beside it (half precision for GPUs), if it was asked for.
        proof: which kernels the runtime uses, where it can be asked.
        simulated: whether a format has no kernel there and the file stands for its accuracy only.
        parity: for `verify`: layer by layer, how far the runtime is from torch.
        engines: TensorRT engines, each with its sidecar `.json` beside it.
        rotations: online rotations in the quantized file, which are float GEMMs; module name to block size.
        spelled: what became of formats of which the target takes the weights alone, by their names.
        batches: sizes that every file was run at.
        runtimes: package to the lowest version that loads the files; the target's own first.
        beside: files that ONNX files need beside them, since their weights are too large to be inside.
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
    batches: tuple[int, ...] = ()
    runtimes: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[Path, ...] = ()


@step(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Export a quantized checkpoint for a target; of a float one, the float file alone.

    Every file is run before anything is kept, alone and at batches up to one more than there are tokens.

    Raises:
        DeployError: bad input, or a graph that is not what was promised; nothing is written. Where no engine can
            be built for want of a package or a GPU, the ONNX files are written all the same.
    """
    workspace, out, geometry = options.output.workspace, options.output.out, options.geometry
    target, source, temperature, verify = options.target, options.source, options.temperature, options.verify
    place, path, writes_float = workspace or Workspace(), options.quantized, options.float
    if path is None:
        newest = choose_network(place)
        options.output.say(newest.why)
        path = newest.path
    path = Path(path)
    if options.float_only and not writes_float:
        raise UsageError("Both --float-only and --no-float are given.", hint="Give one of them.")
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError(f"{temperature} is no temperature.", hint="Use what 'evaluate --fit-temperature' found.")
    chosen = find_target(target, exports=True)
    usual = place.root / chosen.folder
    is_float = not path.is_dir() and (
        path.is_file() or str(path) == EMBEDDED or path.suffix in (".pth", ".safetensors")
    )
    if is_float and (not writes_float or options.simulate or source is not None):
        raise UsageError(
            "A float checkpoint has nothing but its float file to export.",
            where=path,
            hint="Leave --no-float, --simulate and --source out, or quantize it first.",
        )
    if not is_float and geometry != Geometry():
        raise UsageError(
            "--heads, --image-size and --ema are of a float checkpoint.", where=path, hint="Say them to 'quantize'."
        )
    made = _Made(chosen, temperature)
    unavailable: RuntimeUnavailableError | None = None
    proof: KernelProof | None = None
    parity: Parity | None = None
    simulated = False
    label, spelled = "", dict[str, str]()
    engines: list[Path] = []
    rotations: dict[str, int] = {}
    others, keep = chosen.promised_batches(options), chosen.takes_long(options)
    with place.output(out, usual, force=options.output.force, inputs=paths_of(path, source), keep=keep) as directory:
        out = out if out is not None else usual
        if is_float:
            artifact, formats = None, {}
            checkpoint = read_checkpoint(path, **geometry.flat())
            origin = _Origin.of_checkpoint(checkpoint)
        else:
            artifact = load_quantized(path)
            formats, origin = artifact.formats, _Origin.of_artifact(artifact)
        has_fp8 = any(format_.base == "FP8" for format_ in formats.values())
        if artifact is not None and not options.float_only:
            rotations = online_rotations(artifact.model)
            divide_logits(artifact.model, temperature)
            simulated = chosen.simulates(artifact.model, allowed=options.simulate)
            label, spelled = chosen.label(origin.format, formats.values()), chosen.spelled(formats.values())
            made.batches = proof_batches(artifact.model, others=others, whole=verify)
            model = directory / f"model{chosen.suffix}"
            made.write(artifact.model, model, origin, label_simulated(label) if simulated else label)
            try:
                if not simulated:
                    proof = chosen.prove(model, formats)
                made.run(model, artifact.model.config, fp8=has_fp8)
            except RuntimeUnavailableError as error:
                unavailable = error
            if verify:
                parity = chosen.parity(artifact.model).demand()
        if writes_float:
            if artifact is not None:
                checkpoint = _source(artifact, source)
                del artifact
            network = checkpoint.build()
            del checkpoint
            apply_rewrites(network, FLOAT_REWRITES)
            divide_logits(network, temperature)
            made.batches = proof_batches(network, others=others, whole=verify)
            model = directory / f"model.float{chosen.suffix}"
            made.write(network, model, origin, chosen.float_format)
            if verify and parity is None:
                parity = chosen.parity(network).demand()
            config = network.config
            del network
            try:
                made.run(model, config)
            except RuntimeUnavailableError as error:
                unavailable = error
        try:
            about = BuildAbout(origin.manifest_sha256, label, formats)
            engines = chosen.build(directory, made.models, options, about)
        except RuntimeUnavailableError as error:
            unavailable = error
        batches = made.batches if made.ran else ()
        ExportRecord(
            target=chosen.name,
            manifest_sha256=origin.manifest_sha256,
            source_sha256=origin.source_sha256,
            simulated=simulated,
            spelled=spelled,
            temperature=temperature,
            files={name: _file_record(directory / name) for name in made.files},
            engines=[engine.name for engine in engines],
            online_rotations=rotations,
            batches=list(batches),
            runtimes=dict(chosen.lowest),
            proof=None if proof is None else typed(ProofRecord, proof.to_dict()),
            parity=None if parity is None else typed(ParityRecord, parity.to_dict()),
            versions=versions(
                "onnx", "onnx-ir", "onnxruntime-gpu", *(p for one in TARGETS.values() for p in one.lowest)
            ),
        ).write(directory)
    place.record(
        "export",
        out,
        named=workspace is not None,
        source=path,
        checkpoint=origin.source_sha256,
        checkpoint_name=origin.name,
        format=label or chosen.float_format,
    )
    if unavailable is not None:
        unavailable.where = f"the {chosen.kind} was written to {out} all the same"
        raise unavailable
    return ExportResult(
        out,
        out / f"model{chosen.suffix}" if f"model{chosen.suffix}" in made.files else None,
        out / f"model.float{chosen.suffix}" if writes_float else None,
        proof,
        simulated,
        parity,
        tuple(out / engine.name for engine in engines),
        rotations,
        spelled,
        batches,
        chosen.lowest,
        tuple(out / name for name in made.files if name not in made.models),
    )


@dataclass(frozen=True)
class _Origin:
    """What files say of where they come from, no path of this machine; the float checkpoint's name stays here."""

    format: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    embedded_data: bool
    source_sha256: str
    name: str
    manifest_sha256: str | None = None

    @classmethod
    def of_artifact(cls, artifact: QuantizedArtifact) -> _Origin:
        manifest = artifact.manifest
        return cls(
            manifest["format"],
            artifact.preprocessing,
            tuple(manifest["classes"]),
            manifest["data"]["kind"] == EMBEDDED_IMAGES,
            manifest["source"]["sha256"],
            manifest["source"]["name"],
            artifact.manifest_sha256,
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> _Origin:
        return cls(
            "float",
            checkpoint.preprocessing,
            checkpoint.classes,
            checkpoint.data == EMBEDDED_IMAGES,
            checkpoint.sha256,
            checkpoint.path.resolve().name,
        )


@dataclass
class _Made:
    """The files of an export as they come to be.

    Attributes:
        models: names of the files of networks.
        files: those and what lies beside them.
        batches: sizes that they are to be run at; `ran` once they were.
    """

    target: Target
    temperature: float
    models: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    batches: tuple[int, ...] = ()
    ran: bool = False

    def run(self, path: Path, config: IllamaConfig, *, fp8: bool = False) -> None:
        """Run a file at all sizes (see `prove_batches`)."""
        prove_batches(self.target.load(path, fp8=fp8), self.target.tried_in, path, config, self.batches)
        self.ran = True

    def write(self, network: Illama, path: Path, origin: _Origin, format_: str) -> None:
        """Build the target's graph of a network and write it."""
        about = {
            "format": format_,
            "target": self.target.name,
            "runtimes": json.dumps(dict(self.target.lowest)),
            "preprocessing": json.dumps(origin.preprocessing.to_dict()),
            "classes": json.dumps(origin.classes),
            "source_sha256": origin.source_sha256,
        }
        if origin.manifest_sha256 is not None:
            about["manifest_sha256"] = origin.manifest_sha256
        if origin.embedded_data:
            about["data"] = EMBEDDED_IMAGES
        if self.temperature != 1:
            about["temperature"] = repr(self.temperature)
        self.models.append(path.name)
        self.files += [file.name for file in self.target.write(network, path, about)]


def _file_record(path: Path) -> FileRecord:
    return FileRecord(sha256_file(path), path.stat().st_size)


def _source(artifact: QuantizedArtifact, source: str | Path | None) -> Checkpoint:
    hint = "Say where it is now with --source, or leave the float file out with --no-float."
    return read_source(artifact, source, hint)
