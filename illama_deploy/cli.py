"""The command line: each command is a thin shell over the function of the same name.

Kept light: torch, onnx and timm are imported by the commands that need them, never for --help.
Exit codes: 0 done (or passed), 1 a gate failed, 2 an error or wrong usage, 3 inconclusive.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .console import say, steady_streams
from .ending import INTERRUPTED, came_from_stop, close, ended, listen, stop_listening, work
from .errors import DeployError, UsageError
from .workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from .steps.train import TrainResult

__all__ = ["app", "main"]

app = typer.Typer(
    name="illama-deploy",
    help="Train and quantize iLLaMA, export it, and prove what was shipped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Options that several commands share.
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits | folder:PATH | parquet:PATH | list:PATH | segmentation:PATH | timm:NAME?root=PATH | a path",
        show_default=False,
    ),
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of the data.", show_default=False)]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only the first so many images.", show_default=False)]
SkipOption = Annotated[bool, typer.Option("--skip-broken", help="Leave out broken images, and count them.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help=f"Where steps leave their output for the next; {DEFAULT_WORKSPACE}.", show_default=False
    ),
]
HeadsOption = Annotated[
    int | None, typer.Option("--heads", help="Heads of a float checkpoint; dim/64 where not given.", show_default=False)
]
SizeOption = Annotated[
    str | None,
    typer.Option("--image-size", help="Another input size than trained: N or HEIGHTxWIDTH.", show_default=False),
]
EmaOption = Annotated[bool, typer.Option("--ema", help="Take a float checkpoint's averaged weights.")]
MeanOption = Annotated[str | None, typer.Option("--mean", help="Per channel, as 0.5,0.5,0.5.", show_default=False)]
StdOption = Annotated[str | None, typer.Option("--std", help="Per channel, as 0.5,0.5,0.5.", show_default=False)]
CropOption = Annotated[
    float | None, typer.Option("--crop", help="Share of the resized image that is kept.", show_default=False)
]
CropModeOption = Annotated[str | None, typer.Option("--crop-mode", help="center | squash | border", show_default=False)]
InterpolationOption = Annotated[
    str | None, typer.Option("--interpolation", help="bicubic | bilinear | nearest | lanczos", show_default=False)
]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Threads that each artifact may use.")]
BatchOption = Annotated[list[int] | None, typer.Option("--batch", help="Batch size; may be given again.")]
SecondsOption = Annotated[float, typer.Option("--seconds", help="About how long to time at each batch size.")]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", help="An exact number of timed rounds instead.", show_default=False)
]
ConfidenceOption = Annotated[float, typer.Option("--confidence", help="Of each bound of each interval.")]
CudaGraphOption = Annotated[
    bool, typer.Option("--cuda-graph", help="Engines: replay a CUDA graph for each batch size.")
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="torch: quantized directories on torchao's kernels; cpu: ONNX files in ONNX Runtime on the CPU.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[str, typer.Option("--precision", help="Around the integers in OpenVINO: auto | bf16 | f32")]
# Of the two that train.
EvalDataOption = Annotated[
    str | None, typer.Option("--eval-data", help="Held-out images; of --data where not given.", show_default=False)
]
EvalSplitOption = Annotated[
    str | None, typer.Option("--eval-split", help="Their split: test or validation.", show_default=False)
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", help="What the recipe says.", show_default=False)]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", help="Of an update, over all processes.", show_default=False)
]
LrOption = Annotated[float | None, typer.Option("--lr", help="Highest learning rate.", show_default=False)]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of everything random.", show_default=False)]
MicroBatchOption = Annotated[
    int | None, typer.Option("--micro-batch", help="Images that a process takes at a time.", show_default=False)
]
WorkersOption = Annotated[int, typer.Option("--workers", help="Processes that decode, for each that trains.")]
RunThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", help="Of torch, in each process; the weights' last bits hang on it.", show_default=False),
]
CompileOption = Annotated[bool, typer.Option("--compile", help="Compile the blocks (torch.compile).")]
SaveMinutesOption = Annotated[float, typer.Option("--save-minutes", help="Save the state this often, too.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where the run was stopped.")]
RunForceOption = Annotated[bool, typer.Option("--force", help="Replace a run; with --resume: although options differ.")]
RunOption = Annotated[Path | None, typer.Option("--out", help="The run's directory.", show_default=False)]
TrainRecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="TOML file, or a shipped recipe's name.", show_default=False)
]
TargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="cpu | openvino | cuda | trt | torch: exports of a quantized directory that take part; may be given "
        "again. Of files: torch or cpu, what runs them.",
        show_default=False,
    ),
]
PropertiesOption = Annotated[
    str | None,
    typer.Option(
        "--properties", help="Some of calibration,shape-bias,attention-rank,corruptions, or all.", show_default=False
    ),
]
BinsOption = Annotated[int, typer.Option("--bins", help="Of calibration errors.")]
BinningOption = Annotated[str, typer.Option("--binning", help="Of calibration errors: equal-width | equal-mass")]
FitTemperatureOption = Annotated[
    bool, typer.Option("--fit-temperature", help="Fit a temperature on calibration images (for export --temperature).")
]
CalibSplitOption = Annotated[
    str | None, typer.Option("--calib-split", help="Split to fit it on; train where not given.", show_default=False)
]
FitImagesOption = Annotated[int, typer.Option("--calib-images", help="Images to fit it on.")]
CueConflictOption = Annotated[
    Path | None, typer.Option("--cue-conflict", help="Folder of cue-conflict stimuli.", show_default=False)
]
CategoriesOption = Annotated[
    Path | None,
    typer.Option("--categories", help="JSON: category to classes; ImageNet's 16 where not given.", show_default=False),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option("--mask", help="Of attention ranks: causal | bidirectional | 0 to 1; may be given again."),
]
RankImagesOption = Annotated[int, typer.Option("--rank-images", help="Images that attention ranks are averaged over.")]
CorruptionOption = Annotated[
    list[str] | None, typer.Option("--corruption", help="ImageNet-C's 15 where not given; may be given again.")
]
SeverityOption = Annotated[list[int] | None, typer.Option("--severity", help="1 to 5, all where not given.")]
CorruptionImagesOption = Annotated[int, typer.Option("--corruption-images", help="Images that are corrupted.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures here.", show_default=False)]


@app.command()
def train(
    recipe: TrainRecipeOption = "digits",
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Where to start; from nothing where not given.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="To distil from, if the recipe does; --checkpoint.", show_default=False),
    ] = None,
    select_from: Annotated[
        str | None,
        typer.Option(
            "--select-from", help="Start with weights selected from this larger iLLaMA or LLaMA.", show_default=False
        ),
    ] = None,
    new_head: Annotated[bool, typer.Option("--new-head", help="For other classes than the checkpoint's.")] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Train the head alone.")] = False,
    data: DataOption = None,
    split: SplitOption = None,
    eval_data: EvalDataOption = None,
    eval_split: EvalSplitOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    image_size: SizeOption = None,
    heads: HeadsOption = None,
    ema: EmaOption = False,
    micro_batch: MicroBatchOption = None,
    workers: WorkersOption = 0,
    threads: RunThreadsOption = None,
    compile_: CompileOption = False,
    save_minutes: SaveMinutesOption = 10.0,
    out: RunOption = None,
    resume: ResumeOption = False,
    force: RunForceOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Train a float network by a recipe; torchrun distributes it."""
    from .steps.train import train as step

    result = step(
        recipe or "digits",
        checkpoint=checkpoint,
        teacher=teacher,
        select_from=select_from,
        new_head=new_head,
        frozen=frozen,
        data=data,
        split=split,
        eval_data=eval_data,
        eval_split=eval_split,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        image_size=_size(image_size),
        heads=heads,
        ema=ema,
        micro_batch=micro_batch,
        workers=workers,
        threads=threads,
        compile=compile_,
        save_minutes=save_minutes,
        out=out,
        workspace=_place(workspace),
        resume=resume,
        force=force,
        say=_say,
    )
    _say_trained(result)


@app.command()
def qat(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="Directory that 'quantize' wrote, or a float checkpoint to quantize first; the workspace's newest "
            "where not given.",
            show_default=False,
        ),
    ] = None,
    bits: Annotated[
        str | None, typer.Option("--bits", help="8: W8A8; 4: W4A8. CPUs and TensorRT run both.", show_default=False)
    ] = None,
    weights: Annotated[int | None, typer.Option("--weights", help="Bits of weights.", show_default=False)] = None,
    activations: Annotated[
        int | None,
        typer.Option("--activations", help="Bits of activations; float where not given.", show_default=False),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Such as W4A8.", show_default=False)] = None,
    recipe: TrainRecipeOption = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="A directory's float checkpoint, if it has moved.", show_default=False),
    ] = None,
    calib_images: Annotated[
        int | None, typer.Option("--calib-images", help="What the format's recipe says.", show_default=False)
    ] = None,
    data: DataOption = None,
    split: SplitOption = None,
    eval_data: EvalDataOption = None,
    eval_split: EvalSplitOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    heads: HeadsOption = None,
    image_size: SizeOption = None,
    ema: EmaOption = False,
    micro_batch: MicroBatchOption = None,
    workers: WorkersOption = 0,
    threads: RunThreadsOption = None,
    compile_: CompileOption = False,
    save_minutes: SaveMinutesOption = 10.0,
    out: RunOption = None,
    resume: ResumeOption = False,
    force: RunForceOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Train a quantized network, its float original being the teacher; torchrun distributes it."""
    from .steps.qat import format_name
    from .steps.qat import qat as step

    place, named = _place(workspace), format_name(weights, activations)
    if named is not None and format_ is not None:
        raise UsageError("Both --weights and --format are given.", hint="Give one of them.")
    result = step(
        checkpoint,
        bits=bits,
        format=format_ or named,
        recipe=recipe,
        source=source,
        calib_images=calib_images,
        data=data,
        split=split,
        eval_data=eval_data,
        eval_split=eval_split,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        heads=heads,
        image_size=_size(image_size),
        ema=ema,
        micro_batch=micro_batch,
        workers=workers,
        threads=threads,
        compile=compile_,
        save_minutes=save_minutes,
        out=out,
        workspace=place,
        resume=resume,
        force=force,
        say=_say,
    )
    _say_trained(result)


@app.command()
def quantize(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="Float checkpoint (.pth, .safetensors), or 'digits', the embedded one; the workspace's newest where "
            "not given.",
            show_default=False,
        ),
    ] = None,
    bits: Annotated[str | None, typer.Option("--bits", help="8: W8A8; 4: W4A8. CPUs and TensorRT run both.")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="Such as W8A8, W8A8-dynamic, W4A8, W4A16, W4A16-g64, FP8.", show_default=False),
    ] = None,
    effort: Annotated[
        str | None, typer.Option("--effort", help="fast | balanced (what is shipped) | best", show_default=False)
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="TOML file, or a shipped recipe's name.")] = None,
    data: DataOption = None,
    split: SplitOption = None,
    calib_images: Annotated[
        int | None, typer.Option("--calib-images", help="Calibration images (what the recipe says).")
    ] = None,
    calib_batch: Annotated[int, typer.Option("--calib-batch", help="Images decoded at a time.")] = 64,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the draw of calibration images (0).")] = None,
    range_: Annotated[
        str | None, typer.Option("--range", help="minmax | percentile[:P] | mse | entropy | auto", show_default=False)
    ] = None,
    include: Annotated[list[str] | None, typer.Option("--include", help="Sites to quantize, a glob.")] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Sites to leave in float, a glob.")] = None,
    attention_products: Annotated[
        bool | None, typer.Option("--attention-products/--no-attention-products", help="Quantize q·kᵀ and p·v too.")
    ] = None,
    heads: HeadsOption = None,
    image_size: SizeOption = None,
    ema: EmaOption = False,
    mean: MeanOption = None,
    std: StdOption = None,
    crop: CropOption = None,
    crop_mode: CropModeOption = None,
    interpolation: InterpolationOption = None,
    skip_broken: SkipOption = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Search a format for each site: the smallest network that drops at most so many points.",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size", help="Search: the most exact network of at most 3MB, or 30% of float.", show_default=False
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", help="A format to search among (W8A8, W4A8); give several.", show_default=False),
    ] = None,
    held_out_images: Annotated[
        int | None,
        typer.Option("--held-out-images", help="Images that a search measures drops on (10000).", show_default=False),
    ] = None,
    held_out_split: Annotated[
        str | None,
        typer.Option("--held-out-split", help="Their split (that of the calibration images).", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Directory to make.", show_default=False)] = None,
    force: ForceOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Quantize a trained checkpoint after training, with calibration images."""
    from .steps.quantize import quantize as step

    place = _place(workspace)
    artifact = step(
        checkpoint,
        bits=bits,
        format=format_,
        effort=effort,
        recipe=recipe,
        data=data,
        split=split,
        calib_images=calib_images,
        calib_batch=calib_batch,
        seed=seed,
        range=range_,
        include=include or None,
        exclude=exclude or None,
        attention_products=attention_products,
        heads=heads,
        image_size=_size(image_size),
        ema=ema,
        preprocessing=_preprocessing(mean, std, crop, crop_mode, interpolation),
        skip_broken=skip_broken,
        max_drop=max_drop,
        max_size=max_size,
        candidates=candidate or None,
        held_out_images=held_out_images,
        held_out_split=held_out_split,
        out=out,
        force=force,
        say=_say,
        workspace=place,
    )
    manifest = artifact.manifest
    if "search" in manifest:
        from .report.terminal import print_table
        from .steps.search import search_rows

        print_table(*search_rows(artifact.path))
    used = len(manifest["data"]["indices"]) - len(manifest["data"]["skipped"])
    _say(
        f"{manifest['format']}: {len(manifest['sites'])} sites from {used} images of {manifest['data']['kind']}"
        + _skipped(manifest["data"]["skipped"])
    )
    _say_notes(manifest["data"]["notes"])
    made = manifest["recipe"]
    reconstruction = f"; {made['reconstruct']} steps of reconstruction for each block" if made["reconstruct"] else ""
    _say(f"rewrites {', '.join(made['rewrites'])}; ranges {made['range']}; rounding {made['rounding']}{reconstruction}")
    _say(f"logit SQNR {manifest['logit_sqnr_db']:.1f} dB on {manifest['sqnr_images']} of them")
    _say(f"wrote {artifact.path}")


@app.command()
def export(
    quantized: Annotated[
        Path | None,
        typer.Argument(help="Directory that 'quantize' wrote, or a float checkpoint.", show_default=False),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX for ONNX Runtime.")] = False,
    target: Annotated[str, typer.Option("--target", help="Of --onnx: cpu | cuda")] = "cpu",
    openvino: Annotated[bool, typer.Option("--openvino", help="ONNX for OpenVINO's CPU kernels.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="TensorRT engines, and the ONNX they are built from.")] = False,
    flavor: Annotated[str, typer.Option("--flavor", help="Of TensorRT: auto | tensorrt | rtx")] = "auto",
    onnx_only: Annotated[bool, typer.Option("--onnx-only", help="With --trt: build no engine.")] = False,
    min_batch: Annotated[int, typer.Option("--min-batch", help="Smallest batch of an engine.")] = 1,
    opt_batch: Annotated[int, typer.Option("--opt-batch", help="Batch that an engine is tuned for.")] = 8,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Largest batch of an engine.")] = 32,
    builder_optimization_level: Annotated[
        int | None,
        typer.Option("--builder-optimization-level", help="0 (fast build) to 5 (fast engine); 3.", show_default=False),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", help="For --flavor tensorrt; in the user's cache folder.", show_default=False),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option("--compute-capability", help="For --flavor rtx, such as 8.9; may be given again."),
    ] = None,
    float_: Annotated[bool, typer.Option("--float/--no-float", help="Write the float network beside it.")] = True,
    float_only: Annotated[bool, typer.Option("--float-only", help="Write the float network alone.")] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Formats without a kernel too, for accuracy only; the file says so.")
    ] = False,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Divide logits by it, folded into the head.")
    ] = 1.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every layer with torch; stop at one that departs.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--source", help="The float checkpoint, if it has moved.", show_default=False)
    ] = None,
    heads: HeadsOption = None,
    image_size: SizeOption = None,
    ema: EmaOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Directory to make.", show_default=False)] = None,
    force: ForceOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Export a quantized checkpoint (or the float file of a float one) for a target, and prove what was written."""
    asked = [name for name, given in (("--onnx", onnx), ("--openvino", openvino), ("--trt", trt)) if given]
    if len(asked) != 1:
        raise UsageError(
            f"{' and '.join(asked)} are asked for at once." if asked else "No target is named.",
            hint="Say one of --onnx, --openvino and --trt.",
        )
    if target not in ("cpu", "cuda") or (target != "cpu" and not onnx):
        raise UsageError(f"There is no --target {target!r} of {asked[0]}.", hint="--onnx takes --target cpu or cuda.")
    from .export.engine import BuildOptions, Profile
    from .export.targets import TARGETS
    from .steps.export import export as step

    place = _place(workspace)
    name = {"--onnx": f"onnx-{target}", "--openvino": "openvino", "--trt": "tensorrt"}[asked[0]]
    result = step(
        quantized,
        target=name,
        float=float_,
        float_only=float_only,
        simulate=simulate,
        verify=verify,
        temperature=temperature,
        source=source,
        heads=heads,
        image_size=_size(image_size),
        ema=ema,
        flavor=flavor,
        onnx_only=onnx_only,
        profile=Profile(min_batch, opt_batch, max_batch),
        compute_capabilities=compute_capability or (),
        build=BuildOptions(builder_optimization_level, timing_cache),
        out=out,
        force=force,
        workspace=place,
        say=_say,
    )
    if result.simulated:
        _say(f"simulated: {TARGETS[name].runtime} has no kernel for this format; the file measures accuracy only")
    for base, how in result.spelled.items():
        _say(f"{base} checkpoint, in {TARGETS[name].runtime} {how}")
    if result.rotations:
        sizes = ", ".join(str(size) for size in sorted(set(result.rotations.values())))
        _say(f"{len(result.rotations)} online rotations, float GEMMs with blocks of {sizes}")
    if result.parity is not None:
        _say(str(result.parity))
    if result.proof is not None:
        _say(str(result.proof))
    if result.batches:
        _say(f"ran at batches of {', '.join(map(str, result.batches))}, each image as alone")
    package, lowest = next(iter(result.runtimes.items()))
    _say(f"loads in {package} from {lowest} on")
    for path in (result.model, result.float_model, *result.beside, *result.engines):
        if path is not None:
            _say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")


@app.command()
def evaluate(
    artifact: Annotated[
        str | None,
        typer.Argument(
            help="Float checkpoint, quantized directory, .onnx or .engine; the workspace's newest where not given.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Artifact to compare logits with.", show_default=False)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", help="Images at a time: 64, or an engine's largest batch.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads; all cores where not given.", show_default=False)
    ] = None,
    target: TargetOption = None,
    precision: PrecisionOption = "auto",
    heads: HeadsOption = None,
    image_size: SizeOption = None,
    ema: EmaOption = False,
    mean: MeanOption = None,
    std: StdOption = None,
    crop: CropOption = None,
    crop_mode: CropModeOption = None,
    interpolation: InterpolationOption = None,
    properties: PropertiesOption = None,
    bins: BinsOption = 15,
    binning: BinningOption = "equal-width",
    fit_temperature: FitTemperatureOption = False,
    calib_split: CalibSplitOption = None,
    calib_images: FitImagesOption = 1024,
    cue_conflict: CueConflictOption = None,
    categories: CategoriesOption = None,
    mask: MaskOption = None,
    rank_images: RankImagesOption = 128,
    corruption: CorruptionOption = None,
    severity: SeverityOption = None,
    corruption_images: CorruptionImagesOption = 500,
    stride: Annotated[
        int | None,
        typer.Option("--stride", help="Pixels from window to window, of segmentation; 2/3 of one.", show_default=False),
    ] = None,
    scales: Annotated[
        str | None, typer.Option("--scales", help="Of segmentation: averaged, as 0.75,1,1.25.", show_default=False)
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Of segmentation: average with the mirrored image.")] = False,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", help="New folder for images with predicted classes over them.", show_default=False),
    ] = None,
    skip_broken: SkipOption = False,
    save_logits: Annotated[
        Path | None, typer.Option("--save-logits", help="Write logits and labels (.npz).", show_default=False)
    ] = None,
    json: JsonOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with charts here.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Measure accuracy, the distance from a reference, and properties."""
    from .steps.evaluate import evaluate as step

    if artifact is None:
        artifact = _newest(workspace)
    result = step(
        artifact,
        data=data,
        split=split,
        limit=limit,
        reference=reference,
        batch_size=batch,
        threads=threads,
        preprocessing=_preprocessing(mean, std, crop, crop_mode, interpolation),
        backend=target,
        precision=precision,
        heads=heads,
        image_size=_size(image_size),
        ema=ema,
        properties=_property_options(
            properties,
            binning=(bins, binning),
            fit_temperature=fit_temperature,
            calib_split=calib_split,
            calib_images=calib_images,
            cue_conflict=cue_conflict,
            categories=categories,
            masks=mask,
            rank_images=rank_images,
            corruptions=corruption,
            severities=severity,
            corruption_images=corruption_images,
        ),
        sliding=_sliding(stride, scales, flip),
        draw=draw,
        skip_broken=skip_broken,
        save_logits=save_logits,
        json=json,
        html=html,
    )
    figures = dict(result.figures)
    by_class = figures.pop("iou", {})
    for key, value in figures.items():
        shown = "–" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        _say(f"{key:<14} {shown}")
    for name, iou in by_class.items():
        _say(f"  IoU {name:<24} {'–' if iou is None else f'{iou:.2f}'}")
    if result.skipped:
        _say(_skipped(result.skipped).lstrip(", "))
    _say_notes(result.data["notes"])
    for note in result.notes:
        _say(f"- {note}")
    if result.properties:
        from .report.property_rows import property_tables
        from .report.terminal import print_table

        for title, columns, left, rows in property_tables([(artifact, result.properties)]):
            _say(f"\n{title}")
            print_table(columns, rows, left=left)


@app.command()
def bench(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Artifacts, .engine too; the first is what others are compared with. Where none is named, what "
            "'export' left last.",
            show_default=False,
        ),
    ] = None,
    batch: BatchOption = None,
    threads: ThreadsOption = 1,
    seconds: SecondsOption = 5.0,
    rounds: RoundsOption = None,
    confidence: ConfidenceOption = 0.95,
    heads: HeadsOption = None,
    cuda_graph: CudaGraphOption = False,
    target: TargetOption = None,
    precision: PrecisionOption = "auto",
    json: JsonOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Time artifacts in turns, in one process: exit code 3 where one cannot run on this machine."""
    from .steps.bench import bench as step

    if not artifacts:
        from .steps.inputs import exported_files

        artifacts = [str(path) for path in exported_files(Path(_newest(workspace, "export")))]
    result = step(
        artifacts,
        batch=batch or [1],
        threads=threads,
        seconds=seconds,
        rounds=rounds,
        confidence=confidence,
        heads=heads,
        cuda_graph=cuda_graph,
        backend=target,
        precision=precision,
        json=json,
    )
    from .report.rows import LATENCY_COLUMNS, latency_rows
    from .report.terminal import print_table

    print_table(LATENCY_COLUMNS, latency_rows(result.to_dict()))
    for info, reason in zip(result.artifacts, result.not_measured, strict=True):
        if reason is not None:
            _say(f"{info['name']}: not measured: {reason}")
    raise typer.Exit(result.exit_code)


@app.command()
def check(
    candidates: Annotated[
        list[str] | None,
        typer.Argument(
            help="Artifacts, .engine too, or quantized directories; the workspace's export where none is named.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Artifact; the exported float model where not given.", show_default=False),
    ] = None,
    target: TargetsOption = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="A stored report.json that nothing may be worse than.", show_default=False),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Limit on the drop in top-1 (in mIoU, for pixels), in points.")
    ] = 0.5,
    max_latency_ratio: Annotated[
        float, typer.Option("--max-latency-ratio", help="Limit on latency / the fastest baseline's of the same target.")
    ] = 1.0,
    min_effect: Annotated[
        float,
        typer.Option(
            "--min-effect", help="Smallest change of latency that matters, as a share: the limit of --against."
        ),
    ] = 0.02,
    min_top1: Annotated[
        float | None,
        typer.Option(
            "--min-top1", help="Least top-1 (mIoU, for pixels) of a candidate itself, in percent.", show_default=False
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count inconclusive as failed.")] = False,
    data: DataOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    batch: BatchOption = None,
    threads: ThreadsOption = 1,
    seconds: SecondsOption = 5.0,
    rounds: RoundsOption = None,
    confidence: ConfidenceOption = 0.95,
    heads: HeadsOption = None,
    cuda_graph: CudaGraphOption = False,
    precision: PrecisionOption = "auto",
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity/--no-sensitivity", help="Measure what each site costs by itself, for the report."),
    ] = True,
    mean: MeanOption = None,
    std: StdOption = None,
    crop: CropOption = None,
    crop_mode: CropModeOption = None,
    interpolation: InterpolationOption = None,
    properties: PropertiesOption = None,
    bins: BinsOption = 15,
    binning: BinningOption = "equal-width",
    fit_temperature: FitTemperatureOption = False,
    calib_split: CalibSplitOption = None,
    calib_images: FitImagesOption = 1024,
    cue_conflict: CueConflictOption = None,
    categories: CategoriesOption = None,
    mask: MaskOption = None,
    rank_images: RankImagesOption = 128,
    corruption: CorruptionOption = None,
    severity: SeverityOption = None,
    corruption_images: CorruptionImagesOption = 500,
    skip_broken: SkipOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Directory to make.", show_default=False)] = None,
    force: ForceOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Gate candidates on accuracy drop and latency: exit code 0 pass, 1 fail, 3 inconclusive."""
    from .steps.check import check as step

    place = _place(workspace)
    result = step(
        candidates or (),
        baseline=baseline,
        targets=target or (),
        against=against,
        data=data,
        split=split,
        limit=limit,
        max_drop=max_drop,
        max_latency_ratio=max_latency_ratio,
        min_effect=min_effect,
        min_top1=min_top1,
        batch=batch or [1, 8],
        threads=threads,
        seconds=seconds,
        rounds=rounds,
        confidence=confidence,
        preprocessing=_preprocessing(mean, std, crop, crop_mode, interpolation),
        heads=heads,
        cuda_graph=cuda_graph,
        precision=precision,
        sensitivity=sensitivity,
        properties=_property_options(
            properties,
            binning=(bins, binning),
            fit_temperature=fit_temperature,
            calib_split=calib_split,
            calib_images=calib_images,
            cue_conflict=cue_conflict,
            categories=categories,
            masks=mask,
            rank_images=rank_images,
            corruptions=corruption,
            severities=severity,
            corruption_images=corruption_images,
            confidence=confidence,
        ),
        skip_broken=skip_broken,
        out=out,
        force=force,
        workspace=place,
        say=_say,
        command=_typed(),
    )
    from .report import FACES, print_report

    print_report(result.to_dict())
    _say(f"wrote {out or place.report}: report.json, {', '.join(face.file for face in FACES.values())}")
    raise typer.Exit(result.exit_code(strict))


@app.command()
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="report.json files that 'check' wrote.", show_default=False)
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="md, html, junit, benchmark-json, csv: with commas, or given again.", show_default=False
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option("--history", help="Draw the trend of all reports in this directory.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory to write to; beside each file where not given.", show_default=False),
    ] = None,
) -> None:
    """Render stored reports in other forms, or their trend."""
    from .steps.report import history as draw
    from .steps.report import report as step

    if bool(files) == (history is not None):
        raise UsageError(
            "Neither files nor --history are given, or both.", hint="Name report.json files, or --history DIR."
        )
    formats = [name for names in format_ or ["md,html"] for name in names.split(",")]
    for path in step(files or (), formats, out) if history is None else draw(history, out, say=_say):
        _say(f"wrote {path}")


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory; a temporary one where not given.", show_default=False)
    ] = None,
    force: ForceOption = False,
) -> None:
    """Quantize, export and check the embedded digits network."""
    from .report import print_report
    from .steps.demo import demo as step

    report, root = step(out, force=force)
    print_report(report.to_dict())
    place = Workspace(root)
    _say(f"report:    {place.report / 'report.html'}, report.md and report.json")
    _say(f"exported:  {place.onnx / 'model.onnx'} and model.float.onnx")
    _say(f"quantized: {place.quantized}")


@app.command()
def inspect(
    artifact: Annotated[
        Path | None,
        typer.Argument(
            help="Quantized directory, directory of an export, .onnx or .engine; the workspace's newest where not "
            "given.",
            show_default=False,
        ),
    ] = None,
    parity: Annotated[bool, typer.Option("--parity", help="Compare every layer's runtime result with torch.")] = False,
    target: Annotated[
        str, typer.Option("--target", help="For --parity: onnx-cpu | onnx-cuda | openvino | tensorrt")
    ] = "onnx-cpu",
    images: Annotated[
        int, typer.Option("--images", help="Calibration images to measure sensitivity on; 0 for none.")
    ] = 64,
    json: JsonOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with charts here.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Show formats, errors and sensitivity site by site, or each layer's precision and share of latency."""
    from .report.terminal import print_table
    from .steps.inspect import inspect as step

    if artifact is None:
        artifact = Path(_newest(workspace, "quantize", "qat", "export"))
    result = step(artifact, parity=parity, target=target, images=images, json=json, html=html)
    print_table(result.columns, result.rows, left=3)
    _say(result.summary)


@app.command()
def doctor(
    targets: Annotated[bool, typer.Option("--targets", help="Which formats each target has kernels for.")] = False,
) -> None:
    """Print versions, CPU features, and what can be built and run here."""
    if targets:
        from .export.targets.table import target_rows
        from .report.terminal import print_table

        columns, rows = target_rows()
        print_table(columns, rows, left=len(columns))
        return
    from .environment import describe_environment, target_states
    from .versions import too_old

    environment = describe_environment()
    for key, value in environment.items():
        if not isinstance(value, dict):
            _say(f"{key:<18} {value}")
    old = too_old()
    for key, value in {**environment["versions"], **{key: here for key, (here, _) in old.items()}}.items():
        _say(f"{key:<18} {value}" + (f"  too old: needs {old[key][1]}" if key in old else ""))
    import onnxruntime as ort

    _say(f"{'ort providers':<18} {' '.join(ort.get_available_providers())}")
    for state in target_states():
        _say(f"\n{state.name}")
        _say(f"  build: {state.cannot_build or 'yes'}")
        _say(f"  run:   {state.cannot_run or 'yes'}")


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        from .versions import package_version

        _say(f"illama-deploy {package_version('illama-deploy') or 'unknown'}")
        raise typer.Exit(0)


#: What `main` was given, for reports; None where it reads the process's own.
_arguments: Sequence[str] | None = None

#: What typer turns Ctrl-C into.
SIGINT_CODE = 130


def _typed() -> str:
    """The command line, as it can be typed again."""
    import shlex

    return shlex.join(["illama-deploy", *(_arguments if _arguments is not None else sys.argv[1:])])


def _say(text: str) -> None:
    say(text)


def _say_notes(notes: Sequence[str]) -> None:
    """What was left out, altered or guessed of the data."""
    for note in notes:
        _say(f"data: {note}")


def _say_trained(result: TrainResult) -> None:
    if result.rank == 0:
        from .training import headline

        _say(f"{headline(result.figures)} images")
        _say(f"wrote {result.path} (log and curves in {result.directory})")


def _skipped(names: Sequence[str]) -> str:
    return (
        f", {len(names)} broken images left out: {', '.join(names[:3])}{'…' if len(names) > 3 else ''}" if names else ""
    )


def _newest(workspace: Path | None, *steps: str) -> str:
    """The newest artifact of the workspace that one of these steps made, and a line that says so."""
    from .steps.inputs import choose_any

    chosen = choose_any(_place(workspace), *steps)
    _say(chosen.why)
    return str(chosen.path)


def _place(workspace: Path | None) -> Workspace:
    return Workspace() if workspace is None else Workspace(workspace)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{text!r} is no image size.", hint="Write --image-size 384 or --image-size 384x256.")
    return int(parts[0]), int(parts[-1])


def _preprocessing(
    mean: str | None, std: str | None, crop: float | None, crop_mode: str | None, interpolation: str | None
) -> dict[str, Any]:
    return {
        "mean": _floats("--mean", mean),
        "std": _floats("--std", std),
        "crop": crop,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }


def _sliding(stride: int | None, scales: str | None, flip: bool) -> Any:
    """How whole images are predicted, where something is said of it."""
    if stride is None and scales is None and not flip:
        return None
    from .measure import Sliding

    return Sliding(stride, _floats("--scales", scales) or (1.0,), flip)


def _property_options(names: str | None, *, binning: tuple[int, str], **options: Any) -> Any:
    """What `--properties` and its options ask for; options that were not given keep their defaults."""
    from .measure import Binning
    from .steps.properties import PROPERTIES, PropertyOptions

    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in options.items()
        if value not in (None, [])
    }
    chosen = PROPERTIES if names == "all" else tuple(names.split(",")) if names else ()
    return PropertyOptions(chosen, Binning(*binning), **given)


def _floats(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} needs numbers with commas between, not {text!r}.",
            hint="Write one per channel, as in 0.5,0.5,0.5.",
        ) from None


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: with what it found out, or with 2 and one message where a user can mend something.

    Args:
        arguments: the process's own where not given.
    """
    global _arguments  # noqa: PLW0603  (one command line in a process)
    _arguments = arguments
    listen()
    try:
        with steady_streams():
            code = _guarded(lambda: app(args=arguments, standalone_mode=False))
        ended(code)
    finally:
        if arguments is not None:  # the process goes on
            stop_listening()
    sys.exit(code)


def _guarded(run: Callable[[], Any]) -> int:
    try:
        work()
        try:
            code = run()
            if code == SIGINT_CODE:
                raise KeyboardInterrupt
        finally:
            close()
    except (KeyboardInterrupt, typer.Abort):
        return _fail(INTERRUPTED)
    except Exception as error:
        if came_from_stop(error):
            return _fail(INTERRUPTED)
        if isinstance(error, DeployError):
            return _fail(str(error))
        # torch reports a failed allocation as a RuntimeError.
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return _fail("Out of memory.\n  next:  use a smaller --batch, --calib-batch or --image-size.")
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a wrong command line, as click reports it
            shown = io.StringIO()
            error.show(file=shown)
            say(shown.getvalue().rstrip(), error=True)
            return 2
        if os.environ.get("ILLAMA_DEPLOY_DEBUG"):
            raise
        return _fail(
            f"Unexpected {type(error).__name__}: {error}\n"
            "  next:  this is a fault of illama-deploy; please report it with what\n"
            "         ILLAMA_DEPLOY_DEBUG=1 prints for the same command."
        )
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    say(f"error: {message}", error=True)
    return 2


if __name__ == "__main__":
    main()
