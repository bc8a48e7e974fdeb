"""Options that several steps share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, parameter
from ..workspace import DEFAULT_WORKSPACE, Workspace
from .declare import Options, option

__all__ = [
    "PROPERTIES",
    "Backend",
    "Evaluated",
    "Figures",
    "Forced",
    "Geometry",
    "Images",
    "Listener",
    "Number",
    "Output",
    "Page",
    "Place",
    "Preparation",
    "PropertyOptions",
    "Run",
    "Running",
    "SlidingOptions",
    "Timing",
    "as_size",
    "silently",
]

PROPERTIES = ("calibration", "shape-bias", "attention-rank", "corruptions")
#: More threads than any machine has, and fewer than a library crashes at.
MOST_THREADS = 4096
DATA = "digits | folder:PATH | parquet:PATH | list:PATH | segmentation:PATH | timm:NAME?root=PATH | a path"
MASKS, SEVERITIES = ("causal",), (1, 2, 3, 4, 5)


def silently(line: str) -> None:
    """Nobody listens."""


def as_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """An image size as it is given from Python.

    Raises:
        UsageError: it is none.
    """
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise UsageError(f"{size!r} is no image size.", hint="Give a side in pixels, or (height, width).")
    return pair[0], pair[1]


def size(value: Any) -> tuple[int, int] | None:
    """(height, width) of a text such as `384` or `384x256`, or of what `as_size` takes.

    Raises:
        UsageError: it is no size.
    """
    if not isinstance(value, str):
        return as_size(value)
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"{value!r} is no image size.",
            hint=f"Write {' or '.join(parameter(image_size=one) for one in (384, '384x256'))}.",
        )
    return int(parts[0]), int(parts[-1])


def numbers(name: str) -> Callable[[Any], tuple[float, ...]]:
    """Reads numbers with commas between, or a sequence of them."""

    def read(value: Any) -> tuple[float, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            raise UsageError(
                f"{parameter(name)} needs numbers with commas between, not {value!r}.",
                hint="Write one per channel, as in 0.5,0.5,0.5.",
            ) from None

    return read


def names(value: Any) -> tuple[str, ...]:
    """Names with commas between, or a sequence of them."""
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


def _place(value: Any) -> Workspace:
    return value if isinstance(value, Workspace) else Workspace(Path(value))


@dataclass(frozen=True)
class Images(Options):
    """Which images."""

    data: str | None = option(None, DATA, parse=str, python="str | Path | None", otherwise="what the artifact says")
    split: str | None = option(None, "Split of the data.")
    skip_broken: bool = option(False, "Leave out broken images, and count them.")


@dataclass(frozen=True)
class Evaluated(Images):
    """Which images accuracy is measured on."""

    limit: int | None = option(None, "Only the first so many images.", unit="images", low=1)


@dataclass(frozen=True)
class Number(Options):
    """What numbers a network is quantized to."""

    bits: Any = option(None, "8: W8A8; 4: W4A8. CPUs and TensorRT run both.", kind=str, python="int | str | None")
    format: str | None = option(None, "Number format: W8A8, W8A8-dynamic, W4A8, W4A16, W4A16-g64, FP8, …")


@dataclass(frozen=True)
class Figures(Options):
    """Where figures go."""

    json: Path | None = option(None, "Write the figures here.")


@dataclass(frozen=True)
class Page(Figures):
    """Where figures and charts go."""

    html: Path | None = option(None, "Write a page with charts here.")


@dataclass(frozen=True)
class Geometry(Options):
    """What a float checkpoint does not say of itself."""

    heads: int | None = option(None, "Attention heads of a float checkpoint.", otherwise="dim/64", low=1)
    image_size: tuple[int, int] | None = option(
        None,
        "Another input size of a float checkpoint than it was trained with: N or HEIGHTxWIDTH.",
        unit="pixels",
        parse=size,
        kind=str,
        python="int | str | tuple[int, int] | None",
    )
    ema: bool = option(False, "Take a float checkpoint's averaged weights.")
    model: str | None = option(
        None, "timm's name of a float checkpoint's architecture, such as vit_small_patch16_224, where it says none."
    )
    num_classes: int | None = option(None, "0 leaves a float checkpoint's classifier away, for features alone.", low=0)

    def opened(self) -> dict[str, Any]:
        """What is kept on record: the names of what was given, and of what every checkpoint has."""
        return {key: value for key, value in self.flat().items() if value is not None or key in ("heads", "image_size")}


@dataclass(frozen=True)
class Preparation(Options):
    """How images are prepared, where that is not as the artifact says."""

    mean: tuple[float, ...] | None = option(
        None, "Mean of the pixels, per channel, as 0.5,0.5,0.5.", parse=numbers("mean"), kind=str
    )
    std: tuple[float, ...] | None = option(
        None, "Deviation of the pixels, per channel, as 0.5,0.5,0.5.", parse=numbers("std"), kind=str
    )
    crop: float | None = option(None, "Share of the resized image that is kept.")
    crop_mode: str | None = option(None, "How it is cropped: center | squash | border.")
    interpolation: str | None = option(None, "How it is resized: bicubic | bilinear | nearest | lanczos.")

    preprocessing: Any = option(
        None, "Fields of `Preprocessing`, these or others.", flag="", python="Mapping[str, Any] | None"
    )

    def overrides(self) -> dict[str, Any]:
        """Fields of `Preprocessing` that replace the artifact's; None where they do not."""
        named = {
            "mean": self.mean,
            "std": self.std,
            "crop": self.crop,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
        }
        return dict(self.preprocessing or {}) | {key: value for key, value in named.items() if value is not None}


@dataclass(frozen=True)
class Backend(Options):
    """What runs an artifact."""

    backend: str | None = option(
        None,
        "Target that runs it, such as torch (a quantized directory on torchao's kernels) or onnx-cpu (any ONNX file).",
        flag="--target",
        otherwise="what the artifact was made for",
    )


@dataclass(frozen=True)
class Running(Options):
    """How a runtime runs an artifact."""

    precision: str = option("auto", "Around the integers in OpenVINO: auto | bf16 | f32.")
    cuda_graph: bool = option(False, "Replay a CUDA graph for each batch size (engines only).")


@dataclass(frozen=True)
class Timing(Options):
    """How latency is measured."""

    batch: tuple[int, ...] = option(
        (1,), "Batch size; may be given again.", unit="images", python="int | Sequence[int]"
    )
    threads: int = option(1, "Threads that each artifact may use.", unit="threads")
    seconds: float = option(5.0, "About how long to time at each batch size.", unit="seconds")
    rounds: int | None = option(None, "An exact number of timed rounds instead.", unit="rounds")
    confidence: float = option(0.95, "Confidence of each bound of each interval.")


@dataclass(frozen=True)
class PropertyOptions(Options):
    """What else to measure, and how."""

    properties: tuple[str, ...] = option(
        (),
        f"Some of {','.join(PROPERTIES)}, or all.",
        parse=lambda value: PROPERTIES if value == "all" else names(value),
        kind=str,
        python="str | Sequence[str]",
    )
    bins: int = option(15, "Bins of calibration errors.")
    binning: str = option("equal-width", "How calibration errors are binned: equal-width | equal-mass.")
    fit_temperature: bool = option(False, "Fit a temperature on calibration images (for export --temperature).")
    calib_split: str | None = option(None, "Split to fit it on.", otherwise="train")
    calib_images: int = option(1024, "Images to fit it on.", unit="images", low=1)
    cue_conflict: Path | None = option(None, "Folder of cue-conflict stimuli.")
    categories: Path | None = option(None, "JSON: category to classes.", otherwise="ImageNet's 16")
    masks: tuple[str, ...] = option(
        MASKS,
        "Mask that attention ranks are measured with: causal | bidirectional | 0 to 1; may be given again.",
        flag="--mask",
    )
    rank_images: int = option(128, "Images that attention ranks are averaged over.", unit="images", low=1)
    corruptions: tuple[str, ...] = option(
        (), "Corruption; may be given again.", flag="--corruption", otherwise="ImageNet-C's 15"
    )
    severities: tuple[int, ...] = option(
        SEVERITIES, "Severity of corruptions, 1 to 5; may be given again.", flag="--severity"
    )
    corruption_images: int = option(500, "Images that are corrupted.", unit="images", low=1)

    def check(self) -> None:
        if unknown := [name for name in self.properties if name not in PROPERTIES]:
            raise UsageError(
                f"There is no property {unknown[0]!r}.",
                hint=f"Use {parameter(properties=','.join(PROPERTIES))}, or some.",
            )
        for own, given, name in (
            ("fit_temperature", self.fit_temperature, "calibration"),
            ("cue_conflict", self.cue_conflict is not None, "shape-bias"),
            ("categories", self.categories is not None, "shape-bias"),
            ("masks", self.masks != MASKS, "attention-rank"),
            ("corruptions", bool(self.corruptions), "corruptions"),
            ("severities", self.severities != SEVERITIES, "corruptions"),
        ):
            if given and name not in self.properties:
                raise UsageError(
                    f"{parameter(own)} belongs to the property {name}.", hint=f"Add {parameter(properties=name)}."
                )
        if "shape-bias" in self.properties and self.cue_conflict is None:
            raise UsageError(
                "Shape bias needs cue-conflict stimuli.",
                hint=f"Name their folder with {parameter(cue_conflict='DIR')}.",
            )
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise UsageError("Severities are 1 to 5.", hint=f"Use {parameter(severities=3)}, for example.")


@dataclass(frozen=True)
class SlidingOptions(Options):
    """How whole images are predicted, where pixels are classified."""

    stride: int | None = option(
        None, "Of segmentation: step from window to window.", unit="pixels", otherwise="2/3 of one"
    )
    scales: tuple[float, ...] | None = option(
        None, "Of segmentation: scales to average over, as 0.75,1,1.25.", parse=numbers("scales"), kind=str
    )
    flip: bool = option(False, "Average with the mirrored image (segmentation only).")


@dataclass(frozen=True)
class Place(Options):
    """Where steps leave their output for the next."""

    workspace: Workspace | None = option(
        None,
        "Where steps leave their output for the next.",
        otherwise=DEFAULT_WORKSPACE,
        parse=_place,
        kind=Path,
        python="str | Path | Workspace | None",
    )


@dataclass(frozen=True)
class Forced(Options):
    """Whether an output may be replaced."""

    force: bool = option(False, "Replace an output that exists.")


@dataclass(frozen=True)
class Listener(Options):
    """Who is told what is done."""

    say: Callable[[str], None] = option(silently, "Gets lines for people.", flag="", python="Callable[[str], None]")


@dataclass(frozen=True)
class Output(Place, Forced, Listener):
    """Where the output goes."""

    out: Path | None = option(None, "Directory to make.", otherwise="the workspace's")


@dataclass(frozen=True)
class Run(Options):
    """On which images a network is trained, for how long, where, and with which means."""

    data: str | None = option(
        None, DATA, parse=str, python="str | Path | None", otherwise="what the recipe or the checkpoint says"
    )
    split: str | None = option(None, "Split of the data to train on.", otherwise="train")
    eval_data: str | None = option(
        None, "Held-out images.", parse=str, python="str | Path | None", otherwise="those of --data"
    )
    eval_split: str | None = option(None, "Split of the held-out images.", otherwise="test or validation")
    epochs: int | None = option(None, "Passes over the images.", otherwise="the recipe's")
    batch_size: int | None = option(
        None, "Images of an update, over all processes.", unit="images", otherwise="the recipe's"
    )
    lr: float | None = option(None, "Highest learning rate.", otherwise="the recipe's")
    seed: int | None = option(None, "Seed of weights, order and augmentation.", otherwise="the recipe's")
    micro_batch: int | None = option(
        None, "Images that a process takes at a time.", unit="images", otherwise="its share of a batch"
    )
    workers: int = option(0, "Processes that decode, for each that trains.")
    threads: int | None = option(
        None, "Threads of torch in each process; the weights' last bits hang on it.", otherwise="torch's choice"
    )
    compile: bool = option(False, "Compile the blocks (torch.compile).")
    save_minutes: float = option(10.0, "Save the state this often, besides after every epoch.", unit="minutes")
    out: Path | None = option(None, "The run's directory.", otherwise="the workspace's")
    resume: bool = option(False, "Go on where the run was stopped.")
    force: bool = option(False, "Replace a run; with --resume: go on although options differ.")
    say: Callable[[str], None] = option(
        silently, "Gets a line for each epoch.", flag="", python="Callable[[str], None]"
    )

    def check(self) -> None:
        if self.workers < 0 or (self.threads is not None and not 1 <= self.threads <= MOST_THREADS):
            raise UsageError(
                f"There are no {self.workers} workers with {self.threads} threads.",
                hint=f"Use 0 or more {parameter('workers')}, and 1 to {MOST_THREADS} {parameter('threads')}.",
            )
