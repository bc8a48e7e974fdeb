"""What each step takes: its own options, and the groups that it shares with others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..target_names import LINES, find_line, known_targets
from .declare import Options, argument, group, option
from .groups import (
    Backend,
    Evaluated,
    Figures,
    Forced,
    Geometry,
    Images,
    Listener,
    Number,
    Output,
    Page,
    Place,
    Preparation,
    PropertyOptions,
    Run,
    Running,
    SlidingOptions,
    Timing,
    names,
)

__all__ = [
    "BenchOptions",
    "CheckOptions",
    "DemoOptions",
    "DoctorOptions",
    "EvaluateOptions",
    "ExportLine",
    "ExportOptions",
    "InspectOptions",
    "QatOptions",
    "QuantizeOptions",
    "ReportOptions",
    "TrainOptions",
]

RECIPE = "TOML file, or a shipped recipe's name."
#: The type, where a field has its name.
REAL = float
MOVED = "The float checkpoint of a quantized directory, if it has moved."
#: A path, or `digits`.
PATH: dict[str, Any] = {"kind": str, "python": "str | Path | None"}
#: A path of an artifact, or one that is open; and several.
ARTIFACT: dict[str, Any] = {"kind": str, "python": "str | Path | Runtime | None"}
ARTIFACTS: dict[str, Any] = {"kind": list[str], "python": "str | Path | Runtime | Sequence[str | Path | Runtime]"}


@dataclass(frozen=True)
class TrainOptions(Options):
    """Train a float network by a recipe; torchrun distributes it."""

    recipe: Any = argument("digits", RECIPE, is_argument=False, kind=str, python="str | Path | TrainRecipe")
    checkpoint: Any = option(None, "Checkpoint to start from.", otherwise="none", **PATH)
    teacher: Any = option(
        None, "Checkpoint to distil from, if the recipe does.", otherwise="that of --checkpoint", **PATH
    )
    select_from: Any = option(None, "Start with weights selected from this larger iLLaMA or LLaMA.", **PATH)
    new_head: bool = option(False, "Start with a new head, for other classes than the checkpoint's.")
    frozen: bool = option(False, "Train the head alone.")
    geometry: Geometry = group(Geometry)
    run: Run = group(Run)
    place: Place = group(Place)


@dataclass(frozen=True)
class QatOptions(Options):
    """Train a quantized network, its float original being the teacher; torchrun distributes it."""

    checkpoint: Any = argument(
        None,
        "Directory that 'quantize' wrote, or a float checkpoint to quantize first.",
        otherwise="the workspace's newest",
        **PATH,
    )
    number: Number = group(Number)
    weights: int | None = option(None, "Bits of weights.", unit="bits")
    activations: int | None = option(None, "Bits of activations.", unit="bits", otherwise="float")
    recipe: Any = option(
        None,
        RECIPE,
        otherwise="qat",
        kind=str,
        python="str | Path | TrainRecipe | None",
    )
    source: Any = option(None, MOVED, **PATH)
    calib_images: int | None = option(
        None, "Calibration images of a float checkpoint.", unit="images", otherwise="the format's recipe's"
    )
    geometry: Geometry = group(Geometry)
    run: Run = group(Run)
    place: Place = group(Place)


@dataclass(frozen=True)
class QuantizeOptions(Options):
    """Quantize a trained checkpoint after training, with calibration images."""

    checkpoint: Any = argument(
        None,
        "Float checkpoint (.pth, .safetensors), or 'digits', the embedded one.",
        otherwise="the workspace's newest",
        **PATH,
    )
    number: Number = group(Number)
    effort: str | None = option(
        None, "How hard the format's recipe tries: fast | balanced | best.", otherwise="balanced"
    )
    recipe: Any = option(
        None,
        RECIPE,
        otherwise="the format's",
        kind=str,
        python="str | Path | Recipe | None",
    )
    images: Images = group(Images)
    calib_images: int | None = option(None, "Calibration images.", unit="images", otherwise="the recipe's")
    calib_batch: int = option(64, "Images decoded at a time; changes no result.", unit="images")
    seed: int | None = option(None, "Seed of the draw of calibration images.", otherwise="the recipe's")
    range: str | None = option(
        None, "Range method: minmax | percentile[:P] | mse | entropy | auto.", otherwise="the recipe's"
    )
    include: tuple[str, ...] | None = option(None, "Sites to quantize, a glob; may be given again.", otherwise="all")
    exclude: tuple[str, ...] | None = option(
        None, "Sites to leave in float, a glob; may be given again.", otherwise="none"
    )
    attention_products: bool | None = option(
        None, "Quantize q·kᵀ and p·v too.", no="--no-attention-products", otherwise="as the recipe says"
    )
    geometry: Geometry = group(Geometry)
    preparation: Preparation = group(Preparation)
    max_drop: float | None = option(
        None, "Search a format for each site: the smallest network that drops at most so much.", unit="points"
    )
    max_size: str | None = option(None, "Search: the most exact network of at most 3MB, or 30% of float.")
    candidates: tuple[str, ...] | None = option(
        None, "Format to search among; may be given again.", flag="--candidate", otherwise="W8A8 and W4A8"
    )
    held_out_images: int | None = option(
        None, "Images that a search measures drops on.", unit="images", otherwise="10000"
    )
    held_out_split: str | None = option(None, "Split of these images.", otherwise="that of the calibration images")
    output: Output = group(Output)
    recorded: bool = option(True, "Whether the workspace writes down what was made.", flag="")


@dataclass(frozen=True)
class ExportOptions(Options):
    """Export a quantized checkpoint (or the float file of a float one) for a target, and prove what was written."""

    quantized: Any = argument(
        None,
        "Directory that 'quantize' wrote, or a float checkpoint.",
        otherwise="the workspace's newest",
        kind=Path,
        python="str | Path | None",
    )
    target: str = option("onnx-cpu", f"{known_targets(exports=True, between=' | ')}.", flag="")
    float: bool = option(True, "Write the float network beside it.", no="--no-float")
    float_only: bool = option(False, "Write the float network alone.")
    simulate: bool = option(False, "Formats without a kernel too, for accuracy only; the file says so.")
    temperature: Any = option(1.0, "Divide logits by it, folded into the head.", kind=REAL, python="float")
    verify: bool = option(False, "Compare every layer with torch; stop at one that departs.")
    source: Any = option(None, MOVED, **PATH)
    geometry: Geometry = group(Geometry)
    flavor: str = option("auto", "Package that builds engines: auto | tensorrt | rtx.")
    onnx_only: bool = option(False, "Write the TensorRT-ready ONNX alone and build no engine.")
    min_batch: int = option(1, "Smallest batch of an engine.", unit="images")
    opt_batch: int = option(8, "Batch that an engine is tuned for.", unit="images")
    max_batch: int = option(32, "Largest batch of an engine.", unit="images")
    builder_optimization_level: int | None = option(
        None, "How hard TensorRT's builder searches: 0 (fast build) to 5 (fast engine).", otherwise="3"
    )
    timing_cache: Path | None = option(
        None,
        "File of kernel timings that builds of --flavor tensorrt read and extend.",
        otherwise="in the user's cache folder",
    )
    compute_capabilities: tuple[str, ...] = option(
        (),
        "Compute capability that --flavor rtx builds for, such as 8.9; may be given again.",
        flag="--compute-capability",
        otherwise="8.6, 8.9 and 12.0",
    )
    output: Output = group(Output)


#: Options of the command line that choose a target, each with the name of its field; several may share one.
TARGET_FLAGS = {line.flag: line.flag.strip("-").replace("-", "_") for line in LINES if line.flag}
_Flags: Any = dataclasses.make_dataclass(
    "_Flags",
    [(TARGET_FLAGS[line.flag], bool, option(False, line.help)) for line in LINES if line.help],
    bases=(ExportOptions,),
    frozen=True,
)


@dataclass(frozen=True)
class ExportLine(_Flags):  # type: ignore[misc]
    """Export a quantized checkpoint (or the float file of a float one) for a target, and prove what was written."""

    named: str | None = option(
        None,
        f"Target by its name: {known_targets(exports=True, between=' | ')}.",
        flag="--target",
        otherwise="that of the option above",
    )

    def chosen(self) -> ExportOptions:
        """What the step takes: the target by its name.

        Raises:
            UsageError: none is named, or several.
        """
        asked = [flag for flag, field in TARGET_FLAGS.items() if getattr(self, field)]
        if len(asked) > 1 or not (asked or self.named):
            raise UsageError(
                f"{' and '.join(asked)} are asked for at once." if asked else "No target is named.",
                hint=f"Say one of {', '.join(TARGET_FLAGS)}.",
            )
        line = find_line(self.named, exports=True) if self.named else next(one for one in LINES if one.flag == asked[0])
        if asked and line.flag != asked[0]:
            raise UsageError(
                f"{asked[0]} and --target {self.named} are two targets.", hint=f"Say {line.flag}, or leave one out."
            )
        known = {one.name for one in ExportOptions.found()}
        return ExportOptions.take(**{**{k: v for k, v in self.flat().items() if k in known}, "target": line.name})


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Measure accuracy, the distance from a reference, and properties."""

    artifact: Any = argument(
        None,
        "Float checkpoint, quantized directory, or the file or directory of an export.",
        otherwise="the workspace's newest",
        **ARTIFACT,
    )
    images: Evaluated = group(Evaluated)
    reference: Any = option(None, "Artifact to compare logits with.", **ARTIFACT)
    batch_size: int | None = option(
        None, "Images at a time.", flag="--batch", unit="images", otherwise="64, or an engine's largest batch"
    )
    threads: int | None = option(None, "Threads that it may use.", unit="threads", otherwise="all cores")
    backend: Backend = group(Backend)
    running: Running = group(Running)
    geometry: Geometry = group(Geometry)
    preparation: Preparation = group(Preparation)
    properties: PropertyOptions = group(PropertyOptions)
    sliding: SlidingOptions = group(SlidingOptions)
    draw: Path | None = option(None, "New folder for images with predicted classes over them.")
    save_logits: Path | None = option(None, "Write logits, or features, and labels (.npz).")
    figures: Page = group(Page)
    place: Place = group(Place)


@dataclass(frozen=True)
class BenchOptions(Options):
    """Time artifacts in turns, in one process: exit code 3 where one cannot run on this machine."""

    artifacts: tuple[Any, ...] = argument(
        (),
        "Artifacts; the first is what others are compared with.",
        otherwise="what 'export' left last",
        **ARTIFACTS,
    )
    timing: Timing = group(Timing)
    geometry: Geometry = group(Geometry)
    backend: Backend = group(Backend)
    running: Running = group(Running)
    figures: Figures = group(Figures)
    place: Place = group(Place)


@dataclass(frozen=True)
class CheckOptions(Options):
    """Gate candidates on accuracy drop and latency: exit code 0 pass, 1 fail, 3 inconclusive."""

    candidates: tuple[Any, ...] = argument(
        (),
        "Artifacts: quantized directories, exports, or their files.",
        otherwise="the workspace's export",
        **ARTIFACTS,
    )
    baseline: Any = option(
        None,
        "Artifact that candidates are compared with.",
        otherwise="the exported float model",
        **ARTIFACT,
    )
    targets: tuple[str, ...] = option(
        (),
        f"{known_targets(between=' | ')}: exports of a quantized directory that take part; may be given again. "
        "Of files, what runs them.",
        flag="--target",
        python="str | Sequence[str]",
    )
    against: Path | None = option(None, "A stored report.json that nothing may be worse than.")
    max_drop: float = option(0.5, "Limit on the drop in top-1 (mIoU of pixels, kNN top-1 of features).", unit="points")
    max_latency_ratio: float = option(1.0, "Limit on latency / the fastest baseline's of the same target.")
    min_effect: float = option(0.02, "Smallest change of latency that matters, as a share: the limit of --against.")
    min_top1: float | None = option(
        None, "Least top-1 (mIoU of pixels, kNN top-1 of features) of a candidate.", unit="percent"
    )
    strict: bool = option(False, "Count inconclusive as failed.")
    images: Evaluated = group(Evaluated)
    timing: Timing = group(Timing, batch=(1, 8))
    geometry: Geometry = group(Geometry)
    running: Running = group(Running)
    sensitivity: bool = option(True, "Measure what each site costs by itself, for the report.", no="--no-sensitivity")
    preparation: Preparation = group(Preparation)
    properties: PropertyOptions = group(PropertyOptions)
    output: Output = group(Output)
    command: str | None = option(None, "What was typed, for the report.", flag="")


@dataclass(frozen=True)
class ReportOptions(Options):
    """Render stored reports in other forms, or their trend."""

    files: tuple[Any, ...] = argument(
        (), "report.json files that 'check' wrote.", kind=list[Path], python="str | Path | Sequence[str | Path]"
    )
    formats: tuple[str, ...] = option(
        ("md", "html"),
        "md, html, junit, benchmark-json, csv: with commas, or given again.",
        flag="--format",
        python="str | Sequence[str]",
        parse=lambda value: tuple(
            name for each in ([value] if isinstance(value, str) else value) for name in names(each)
        ),
    )
    out: Path | None = option(None, "Directory to write to.", otherwise="beside each file")
    history: Path | None = option(None, "Draw the trend of all reports in this directory.")
    listener: Listener = group(Listener)


@dataclass(frozen=True)
class DemoOptions(Options):
    """Quantize, export and check the embedded digits network."""

    out: Path | None = argument(None, "Directory.", otherwise="a temporary one", is_argument=False)
    forced: Forced = group(Forced)
    seconds: float = option(3.0, "How long its check times each batch size, about.", unit="seconds")


@dataclass(frozen=True)
class InspectOptions(Options):
    """Show formats, errors and sensitivity site by site, or each layer's precision and share of latency."""

    artifact: Any = argument(
        None,
        "Quantized directory, or the file or directory of an export.",
        otherwise="the workspace's newest",
        kind=Path,
        python="str | Path | None",
    )
    parity: bool = option(False, "Compare every layer's runtime result with torch.")
    target: str = option("onnx-cpu", f"Target that --parity runs in: {known_targets(exports=True, between=' | ')}.")
    images: int = option(64, "Calibration images to measure sensitivity on; 0 for none.", unit="images")
    figures: Page = group(Page)
    place: Place = group(Place)


@dataclass(frozen=True)
class DoctorOptions(Options):
    """Print versions, CPU features, and what can be built and run here."""

    targets: bool = option(False, "Show which formats each target has kernels for.")
