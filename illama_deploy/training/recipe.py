"""How a network is trained, as one frozen value: TOML in, and its resolved copy into every run's checkpoint."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import RecipeError, parameter
from ..model.config import VARIATIONS, IllamaConfig
from ..model.network import NetworkConfig
from ..tables import check_types, from_table, of_type, plain_values, read_toml, require_known, shortened
from .policies import why_no_policy

__all__ = ["FUSED", "SHIPPED", "TrainRecipe", "require_memory"]

#: Optimizers that torch has a fused form of.
FUSED = ("adam", "adamw", "sgd")
SHIPPED = Path(__file__).parent / "recipes"

CHOICES = {
    "pipeline": ("auto", "timm", "tensor"),
    "soft_mask": ("none", "constant", "linear"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "steps": ("learned", "fixed"),
    "stored": ("float32", "float16"),
    "schedule": ("cosine", "poly"),
}
#: Keys that are epochs from the start, fewer than there are.
SPANS = ("warmup_epochs", "soft_mask_epochs")
#: Keys to what they are at least.
LEAST = {
    "epochs": 1, "batch_size": 1, "evaluate_every": 1, "seed": 0, "lr": 0, "lr_start": 0, "warmup_epochs": 0,
    "soft_mask_epochs": 0, "clip_grad": 0, "features": 0, "rotate": 0, "shear": 0, "shift": 0, "brightness": 0,
    "color_jitter": 0,
}  # fmt: skip
#: How much larger, or smaller, an image is made.
MOST_ZOOM = 16
#: Keys of [model] beside timm's name of an architecture, and what timm calls them.
ARGUMENTS = {
    "image_size": "img_size",
    "patch_size": "patch_size",
    "channels": "in_chans",
    "dim": "embed_dim",
    "depth": "depth",
    "heads": "num_heads",
}
#: Numbers in [model], and sides of its images, at most.
MOST, MOST_SIDE = 2**15, 2**12
#: Keys that are shares or probabilities.
SHARES = ("lr_min", "weight_decay", "smoothing", "mixup", "cutmix", "drop_path", "ema", "flip", "erasing", "teacher")


@dataclass(frozen=True)
class TrainRecipe:
    """A complete description of one training, of a float network or of a quantized one.

    Attributes:
        model: keys of `IllamaConfig` (but `classes`, which the data says), or `architecture`, timm's name of another
            network, with some of them (`ARGUMENTS`). A table in TOML; where training starts
            from a checkpoint, what it says wins over the checkpoint only for `image_size`.
        mean, std: per channel; what the starting checkpoint or the default preprocessing says where empty.
        epochs, batch_size: over all processes; images that fill no batch sit an epoch out.
        optimizer: a name that timm knows.
        lr, lr_min, lr_start, warmup_epochs: linear from `lr_start` in the first update to `lr` in the warm-up's last,
            then by the schedule towards `lr_min`, over the updates that are left (see `lr_at`).
        schedule: `cosine`, or `poly`: linearly in the updates (power 1).
        clip_grad: limit on the gradient's norm; 0 is none.
        smoothing: of labels.
        mixup, cutmix: alpha of timm's `Mixup`; 0 is off.
        drop_path: rate of the last block, rising linearly from the first.
        evaluate_every: epochs between measurements of held-out accuracy; the last is always measured.
        ema: decay of averaged weights, which then are what is evaluated and kept; 0 is off.
        soft_mask, soft_mask_epochs: how the mask becomes causal: `constant` opens it until that epoch, `linear` closes
            it update by update until then (see `mask_at`).
        pipeline: `timm`: decoded and changed one by one in worker processes; `tensor`: all images are decoded once, at
            the network's size, and changed by whole batches; `auto`: `tensor` where that takes at most 1 GiB.
        flip: probability, in both pipelines.
        crop_scale, auto_augment, color_jitter, erasing: of the `timm` pipeline.
        rotate, shear (degrees), shift (share of the size), zoom (from, to), brightness: of the `tensor` pipeline.
        crop: of pixels that are classified: share of an image's side that a window of the network's size is, trained on
            with `zoom`, `flip` and `color_jitter`, and evaluated with.
        data: spec to train on where none is named; in a file, the embedded `digits` only.
        stored: precision of the weights in the file; what is evaluated is rounded to it.
        precision: `bfloat16` and `float16` by autocast; `auto`: the one that this machine is fastest at.
        seed: of everything random.
        teacher: share of the loss that is the divergence from the teacher's logits; the rest is that from labels.
        temperature: of both logits in it.
        features: weight of the distance from the teacher's residual stream, relative to its size, mean over blocks.
        frozen: of `train`: the checkpoint's weights stay, only the head learns.
        steps: of `qat`: step sizes are `learned` (LSQ) or `fixed` (straight-through alone).
    """

    model: tuple[tuple[str, Any], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    epochs: int = 300
    batch_size: int = 4096
    optimizer: str = "adamw"
    lr: float = 4e-3
    lr_min: float = 1e-6
    lr_start: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    clip_grad: float = 0.0
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    evaluate_every: int = 1
    ema: float = 0.0
    soft_mask: str = "none"
    soft_mask_epochs: float = 0.0
    pipeline: str = "auto"
    flip: float = 0.5
    erasing: float = 0.25
    crop_scale: tuple[float, ...] = (0.08, 1.0)
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    rotate: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    zoom: tuple[float, ...] = (1.0, 1.0)
    brightness: float = 0.0
    crop: float = 1.0
    data: str = ""
    stored: str = "float32"
    precision: str = "auto"
    seed: int = 0
    teacher: float = 0.0
    temperature: float = 1.0
    features: float = 0.0
    frozen: bool = False
    steps: str = "learned"

    def __post_init__(self) -> None:
        check_types(self, skip=["model"])
        object.__setattr__(self, "model", tuple(sorted(_model(dict(self.model)).items())))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise RecipeError(
                    f"Recipe key {name!r} does not know {shortened(getattr(self, name))}.",
                    hint=f"Use {' or '.join(choices)}.",
                )
        for name, least in LEAST.items():
            if not getattr(self, name) >= least:
                raise RecipeError(f"Recipe key {name!r} must be at least {least}.", hint="Raise it.")
        if not self.temperature > 0:
            raise RecipeError("'temperature' must be above 0.", hint="Raise it.")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"Recipe key {name!r} must be in 0..1, not {getattr(self, name)}.", hint="Mend it.")
        self._check_images()
        for name in SPANS:
            if getattr(self, name) >= self.epochs and getattr(self, name):
                raise RecipeError(
                    f"{name} is {getattr(self, name):g} and there are {self.epochs} epochs.",
                    hint=f"Raise the epochs, or lower {name} in a recipe of your own "
                    f"({parameter(recipe='FILE.toml')}).",
                )
        if why := self.auto_augment and why_no_policy(self.auto_augment):
            raise RecipeError(
                f"Recipe key 'auto_augment' does not know {shortened(self.auto_augment)} ({why}).",
                hint='Use a policy of timm\'s, such as "rand-m9-mstd0.5-inc1", or "" for none.',
            )
        if why := why_no_optimizer(self.optimizer):
            raise RecipeError(
                f"Recipe key 'optimizer' does not know {shortened(self.optimizer)} ({why}).",
                hint="Use one of timm's that needs gradients alone, such as adamw, sgd or lion.",
            )

    def _check_images(self) -> None:
        """Refuse what no image can be made of.

        Raises:
            RecipeError: cuts, scales, means or channels that do not fit.
        """
        low, high = self.zoom if len(self.zoom) == 2 else (0.0, 0.0)
        if not 0 < self.crop <= 1 or not 1 / MOST_ZOOM <= low <= high <= MOST_ZOOM:
            raise RecipeError(
                f"'crop' must be a share above 0, and 'zoom' two rising factors of at most {MOST_ZOOM}.",
                hint="Mend it.",
            )
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise RecipeError("'crop_scale' must be two rising shares above 0.", hint="Mend it.")
        if len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise RecipeError(
                "The recipe's 'mean' and 'std' differ in length, or a deviation is not above 0.",
                hint="Give one of each per channel.",
            )
        channels = dict(self.model).get("channels", len(self.mean) or 3)
        if channels not in (1, 3, 4) or len(self.mean) not in (0, channels):
            raise RecipeError(
                f"The recipe has {len(self.mean)} means and a network of {shortened(channels)} channels.",
                hint="Image files have 1, 3 or 4 channels; give one mean and deviation for each.",
            )

    def lr_at(self, update: int, steps: int) -> float:
        """The learning rate of an update, the first being 0, where an epoch has so many.

        Both ends of the warm-up count, as in the authors' code, whose logs this gives to the last digit
        (tests/training/test_schedule.py); timm's schedulers reach `lr` an update later.
        """
        warmup = self._updates(self.warmup_epochs, steps)
        if update < warmup:
            return self.lr_start + (self.lr - self.lr_start) * update / max(warmup - 1, 1)
        done = (update - warmup) / (self.epochs * steps - warmup)
        left = 1 - done if self.schedule == "poly" else (1 + math.cos(math.pi * done)) / 2
        return self.lr_min + (self.lr - self.lr_min) * left

    def mask_at(self, update: int, steps: int) -> float:
        """How open the mask is in an update (as in `lr_at`): 1 bidirectional, 0 causal."""
        span = self._updates(self.soft_mask_epochs, steps)
        if self.soft_mask == "none" or update >= span:
            return 0.0
        return 1.0 if self.soft_mask == "constant" else 1.0 - update / max(span - 1, 1)

    def _updates(self, epochs: float, steps: int) -> int:
        """Updates in so many epochs from the start; the run's last one is none of them."""
        return min(round(epochs * steps), self.epochs * steps - 1)

    def for_epochs(self, epochs: int) -> tuple[TrainRecipe, list[str]]:
        """The recipe for another number of epochs, and what is said of it.

        A warm-up, or the closing of the mask, that would not end before the run does keeps its share of the run.
        """
        changes: dict[str, Any] = {}
        for name in SPANS:
            if (span := getattr(self, name)) and span >= epochs:
                changes[name] = span / self.epochs * epochs
        said = [
            f"{name} is {getattr(self, name):g} of {self.epochs} epochs, and the run has {epochs}: now {new:g}."
            for name, new in changes.items()
        ]
        return replace(self, epochs=epochs, **changes), said

    def override(self, **options: Any) -> TrainRecipe:
        """Replace what is given (not None), as flags do."""
        return replace(self, **{key: value for key, value in options.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        table = {key: list(value) if isinstance(value, tuple) else value for key, value in self.model}
        return {**plain_values(self), "model": table}

    def identity(self) -> dict[str, Any]:
        """What tells runs apart, key by key."""
        return {f"recipe.{key}": value for key, value in self.to_dict().items()}

    @classmethod
    def read(cls, name: str | Path) -> TrainRecipe:
        """Read a TOML file, or a shipped recipe by its name (such as `tiny`).

        Raises:
            RecipeError: not there, not TOML, or not a recipe.
        """
        values, path = read_toml(name, SHIPPED)
        if not isinstance(values.get("model", {}), dict):
            raise RecipeError("Recipe key 'model' needs a table.", where=path, hint="Write it as [model].")
        if values.get("data", "") not in ("", "digits"):  # a file may not say what is opened
            raise RecipeError(
                f"Recipe key 'data' names data of this machine, or elsewhere: {shortened(values['data'])}.",
                where=path,
                hint=f"Leave it out, and give the data with {parameter('data')}.",
            )
        return from_table(cls, {**values, "model": tuple(values.get("model", {}).items())}, where=path)


def _model(table: dict[str, Any]) -> dict[str, Any]:
    """The [model] table, typed; a whole one describes a network that can be made here.

    Raises:
        RecipeError: an unknown key, a value of another type, or no network.
    """
    kinds = {f.name: str(f.type) for f in fields(IllamaConfig) if f.name != "classes"}
    if "architecture" in table:
        kinds = {key: kinds[key] for key in (*ARGUMENTS, "head_width")} | {"architecture": "str"}
    require_known(table, kinds)
    if isinstance(size := table.get("image_size"), int):
        table = {**table, "image_size": (size, size)}
    table = {key: of_type(f"model.{key}", kinds[key], value) for key, value in table.items()}
    numbers = [value for value in table.values() if isinstance(value, int)]
    if not all(0 <= number <= MOST for number in numbers) or not all(
        1 <= side <= MOST_SIDE for side in table.get("image_size", ())
    ):
        raise RecipeError(
            f"The recipe's [model] has a number outside 0..{MOST}, or a side of images outside 1..{MOST_SIDE}.",
            hint="Mend it.",
        )
    if "architecture" in table:
        return table
    for name, known in VARIATIONS.items():
        if table.get(name, known[0]) not in known:
            what = f"Recipe key 'model.{name}' does not know {shortened(table[name])}."
            raise RecipeError(what, hint=f"Use {' or '.join(known)}.")
    if {"dim", "depth", "heads"} <= table.keys():
        try:
            require_memory(IllamaConfig(**table, classes=2))
        except ValueError as error:
            raise RecipeError(f"The recipe describes no network ({error}).", hint="Mend its [model] table.") from error
    return table


def require_memory(config: NetworkConfig) -> None:
    """Refuse a network that no memory of this machine holds.

    Raises:
        RecipeError: it does not fit.
    """
    needed, here = _bytes(config), _memory()
    if needed > here:
        raise RecipeError(
            f"The recipe's network takes {needed / 2**30:,.0f} GiB, and this machine has {here / 2**30:,.0f}.",
            hint="Lower the numbers of its [model] table.",
        )


def _bytes(config: NetworkConfig) -> int:
    """What a network takes: its weights and masks, and one image's attention."""
    block = 4 * config.dim**2 + 3 * config.dim * config.hidden
    weights = config.depth * block + config.dim * (config.tokens + config.channels * config.patch_size**2)
    return 4 * (weights + config.tokens**2 * (config.depth + config.heads) + config.head_width**2 * 9)


def _memory() -> float:
    """Bytes of this machine's memory; more than any where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


@cache
def why_no_optimizer(name: str) -> str:
    """Why timm's optimizer of that name takes no step, gradients being all that it gets; empty where it does."""
    import torch
    from timm.optim import create_optimizer_v2

    if name in FUSED:
        return ""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = torch.nn.Linear(2, 2, device="meta").to_empty(device=device)  # nothing is drawn: random is what seeds say
    try:
        for parameter in layer.parameters():
            torch.nn.init.ones_(parameter)
            parameter.grad = torch.ones_like(parameter)
        optimizer = create_optimizer_v2(layer, name, lr=1e-3, weight_decay=0.05)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    except Exception as error:  # timm asserts, looks up or imports; torch says what it likes
        return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
    return ""
