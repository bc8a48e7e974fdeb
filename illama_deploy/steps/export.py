"""quantized checkpoint → one file per target, each proven."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint import EMBEDDED, Checkpoint, read_checkpoint
from ..errors import RuntimeUnavailableError, UsageError, parameter
from ..export.batches import proof_batches, prove_batches
from ..export.proof import KernelProof
from ..export.record import ExportRecord, FileRecord, ParityRecord, ProofRecord
from ..formats import Format, label_simulated
from ..hub_folder import is_hub_folder
from ..model.network import Network
from ..options import step
from ..options.groups import Geometry
from ..options.steps import ExportOptions
from ..preprocessing import Preprocessing
from ..quant import QuantizedArtifact, divide_logits, load_quantized, quantized_modules
from ..rewrites import apply_rewrites, online_rotations
from ..tables import typed
from ..targets import Target, find_target
from ..targets.parity import Parity
from ..targets.target import BuildAbout
from ..versions import versions
from ..workspace import Workspace
from .shared.images import EMBEDDED_IMAGES
from .shared.inputs import choose_network, paths_of
from .shared.load_checkpoint import read_source

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
        unavailable: why not all could be built or run here, for want of a package or a GPU; what is written stays.
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
    unavailable: RuntimeUnavailableError | None = None


@step(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Export a quantized checkpoint for a target; of a float one, the float file alone.

    Every file is run before anything is kept, alone and at batches up to one more than there are tokens.

    Raises:
        DeployError: bad input, or a graph that is not what was promised; nothing is written. Where a package or a GPU
            is missing, what can be written is, and the result says so (`unavailable`).
    """
    workspace, out = options.output.workspace, options.output.out
    place, path = workspace or Workspace(), options.quantized
    if path is None:
        newest = choose_network(place)
        options.output.say(newest.why)
        path = newest.path
    path = Path(path)
    _require_fitting(options, path)
    target = find_target(options.target, exports=True)
    usual = place.root / target.folder
    inputs, keep = paths_of(path, options.source), target.takes_long(options)
    promised = target.promised_batches(options)
    with place.output(out, usual, force=options.output.force, inputs=inputs, keep=keep) as directory:
        out = out if out is not None else usual
        job = _Job(target, options, directory, promised)
        if _is_float(path):
            checkpoint = read_checkpoint(path, **options.geometry.flat())
            origin = _Origin.of_checkpoint(checkpoint)
        else:
            artifact = load_quantized(path)
            origin = _Origin.of_artifact(artifact)
            if not options.float_only:
                job.write_quantized(artifact, origin)
            if options.float:
                checkpoint = _source(artifact, options.source)
            del artifact
        if options.float:
            network = checkpoint.build()
            del checkpoint
            job.write_float(network, origin)
            del network
        job.build(origin)
        job.record(origin).write(directory)
    place.record(
        "export",
        out,
        named=workspace is not None,
        source=path,
        checkpoint=origin.source_sha256,
        checkpoint_name=origin.name,
        format=job.label or target.float_format,
    )
    if job.unavailable is not None:
        job.unavailable.where = f"the {target.kind} was written to {out} all the same"
    return job.result(out)


def _is_float(path: Path) -> bool:
    """Whether a path is that of a float checkpoint, there or not."""
    if is_hub_folder(path):
        return True
    return not path.is_dir() and (path.is_file() or str(path) == EMBEDDED or path.suffix in (".pth", ".safetensors"))


def _require_fitting(options: ExportOptions, path: Path) -> None:
    """Refuse options that do not fit together, or not to what is exported.

    Raises:
        UsageError: they do not.
    """
    temperature = options.temperature
    if options.float_only and not options.float:
        raise UsageError(
            f"Both {parameter('float_only')} and {parameter(float=False)} are given.", hint="Give one of them."
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError(
            f"{temperature} is no temperature.", hint=f"Use what 'evaluate {parameter(fit_temperature=True)}' found."
        )
    if _is_float(path) and (not options.float or options.simulate or options.source is not None):
        raise UsageError(
            "A float checkpoint has nothing but its float file to export.",
            where=path,
            hint=f"Leave {parameter(float=False)}, {parameter('simulate')} and {parameter('source')} out, or quantize "
            "it first.",
        )
    if not _is_float(path) and options.geometry != Geometry():
        raise UsageError(
            f"{parameter('heads')}, {parameter('image_size')} and {parameter('ema')} are of a float checkpoint.",
            where=path,
            hint="Say them to 'quantize'.",
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
class _Job:
    """An export as it comes to be.

    Attributes:
        promised: batch sizes that files promise besides the usual ones.
        models: names of the files of networks.
        files: those and what lies beside them.
        built: what was built of them, where that runs instead.
        batches: sizes that every file was run at.
        label: name of the quantized network's format, as this target's files say it.
        unavailable: why something could not be proven or built on this machine.
    """

    target: Target
    options: ExportOptions
    directory: Path
    promised: tuple[int, ...]
    models: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    batches: tuple[int, ...] = ()
    label: str = ""
    formats: Mapping[str, Format] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)
    rotations: dict[str, int] = field(default_factory=dict)
    simulated: bool = False
    proof: KernelProof | None = None
    parity: Parity | None = None
    unavailable: RuntimeUnavailableError | None = None

    def write_quantized(self, artifact: QuantizedArtifact, origin: _Origin) -> None:
        """Write the quantized network, prove its kernels, run it and compare it."""
        target, model, self.formats = self.target, artifact.model, artifact.formats
        self.rotations = online_rotations(model)
        divide_logits(model, self.options.temperature)
        self.simulated = target.simulates(model, allowed=self.options.simulate)
        self.label = target.label(origin.format, self.formats.values())
        self.spelled = target.spelled(self.formats.values())
        path = self.directory / f"model{target.suffix}"
        self._write(model, path, origin, label_simulated(self.label) if self.simulated else self.label)
        try:
            if not self.simulated:
                self.proof = target.prove(path, self.formats)
            self._run(path, model)
        except RuntimeUnavailableError as error:
            self.unavailable = error
        if self.options.verify:
            self.parity = target.parity(model).demand()

    def write_float(self, network: Network, origin: _Origin) -> None:
        """Write the float network, made as cheap as the quantized one, run it, and compare it if no other was."""
        apply_rewrites(network, FLOAT_REWRITES)
        divide_logits(network, self.options.temperature)
        path = self.directory / f"model.float{self.target.suffix}"
        self._write(network, path, origin, self.target.float_format)
        if self.options.verify and self.parity is None:
            self.parity = self.target.parity(network).demand()
        try:
            self._run(path, network)
        except RuntimeUnavailableError as error:
            self.unavailable = error

    def build(self, origin: _Origin) -> None:
        """Build what runs, where that is another file."""
        about = BuildAbout(origin.manifest_sha256, self.label, self.formats)
        try:
            built = self.target.build(self.directory, self.models, self.options, about)
            self.built = [path.name for path in built]
        except RuntimeUnavailableError as error:
            self.unavailable = error

    def record(self, origin: _Origin) -> ExportRecord:
        """What `export.json` says."""
        return ExportRecord(
            target=self.target.name,
            manifest_sha256=origin.manifest_sha256,
            source_sha256=origin.source_sha256,
            simulated=self.simulated,
            spelled=dict(self.spelled),
            temperature=self.options.temperature,
            files={name: FileRecord.of(self.directory / name) for name in self.files},
            engines=self.built,
            online_rotations=self.rotations,
            batches=list(self.batches),
            runtimes=dict(self.target.lowest),
            proof=None if self.proof is None else typed(ProofRecord, self.proof.to_dict()),
            parity=None if self.parity is None else typed(ParityRecord, self.parity.to_dict()),
            versions=versions("onnx", "onnx-ir", "onnxruntime-gpu", *self.target.lowest),
        )

    def result(self, out: Path) -> ExportResult:
        """What the step returns, of files at their place."""
        model, float_model = f"model{self.target.suffix}", f"model.float{self.target.suffix}"
        return ExportResult(
            out,
            out / model if model in self.files else None,
            out / float_model if float_model in self.files else None,
            self.proof,
            self.simulated,
            self.parity,
            tuple(out / name for name in self.built),
            self.rotations,
            self.spelled,
            self.batches,
            self.target.lowest,
            tuple(out / name for name in self.files if name not in self.models),
            self.unavailable,
        )

    def _run(self, path: Path, network: Network) -> None:
        """Run a file at all sizes that it is to be held to (see `prove_batches`)."""
        batches = proof_batches(network, others=self.promised, whole=self.options.verify)
        has_fp8 = any(module.format.base == "FP8" for _, module in quantized_modules(network))
        run = self.target.load(path, fp8=has_fp8)
        prove_batches(run, self.target.tried_in, path, network.config, batches)
        self.batches = batches

    def _write(self, network: Network, path: Path, origin: _Origin, format_: str) -> None:
        """Write a network in the target's form."""
        about = {
            "format": format_,
            "target": self.target.name,
            "task": network.config.task,
            "runtimes": json.dumps(dict(self.target.lowest)),
            "preprocessing": json.dumps(origin.preprocessing.to_dict()),
            "classes": json.dumps(origin.classes),
            "source_sha256": origin.source_sha256,
        }
        if origin.manifest_sha256 is not None:
            about["manifest_sha256"] = origin.manifest_sha256
        if origin.embedded_data:
            about["data"] = EMBEDDED_IMAGES
        if self.options.temperature != 1:
            about["temperature"] = repr(self.options.temperature)
        self.models.append(path.name)
        self.files += [file.name for file in self.target.write(network, path, about)]


def _source(artifact: QuantizedArtifact, source: str | Path | None) -> Checkpoint:
    hint = f"Say where it is now with {parameter('source')}, or leave the float file out with {parameter(float=False)}."
    return read_source(artifact, source, hint)
