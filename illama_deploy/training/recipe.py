"""How a network is trained, as one frozen value: TOML in, and its resolved copy into every run's checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..model.illama import IllamaConfig
from ..tables import check_types, from_table, plain_values, read_toml, require_known

__all__ = ["SHIPPED", "TrainRecipe"]

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
#: Keys that are shares or probabilities.
SHARES = ("lr_min", "weight_decay", "smoothing", "mixup", "cutmix", "drop_path", "ema", "flip", "erasing", "teacher")


@dataclass(frozen=True)
class TrainRecipe:
    """A complete description of one training, of a float network or of a quantized one.

    Attributes:
        model: keys of `IllamaConfig` (but `classes`, which the data says). A table in TOML; where training starts
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
        data: spec to train on where none is named.
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
        known = [f.name for f in fields(IllamaConfig) if f.name != "classes"]
        table = dict(self.model)
        require_known(table, known)
        if isinstance(size := table.get("image_size"), int):
            table["image_size"] = (size, size)
        pairs = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        object.__setattr__(self, "model", tuple(sorted(pairs.items())))
        check_types(self, skip=["model"])
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise RecipeError(
                    f"Recipe key {name!r} does not know {getattr(self, name)!r}.", hint=f"Use {' or '.join(choices)}."
                )
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("evaluate_every", 1),
            ("seed", 0),
            ("lr", 0),
            ("warmup_epochs", 0),
        ):
            if not getattr(self, name) >= least:
                raise RecipeError(f"Recipe key {name!r} must be at least {least}.", hint="Raise it.")
        if not 0 < self.crop <= 1 or len(self.zoom) != 2 or not 0 < self.zoom[0] <= self.zoom[1]:
            raise RecipeError("'crop' must be a share above 0, and 'zoom' two rising factors.", hint="Mend it.")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"Recipe key {name!r} must be in 0..1, not {getattr(self, name)}.", hint="Mend it.")
        if len(self.mean) != len(self.std):
            raise RecipeError("The recipe's 'mean' and 'std' differ in length.", hint="Give one per channel.")
        for name in SPANS:
            if getattr(self, name) >= self.epochs and getattr(self, name):
                raise RecipeError(
                    f"{name} is {getattr(self, name):g} and there are {self.epochs} epochs.",
                    hint=f"Raise the epochs, or lower {name} in a recipe of your own (--recipe FILE.toml).",
                )

    def lr_at(self, update: int, steps: int) -> float:
        """The learning rate of an update, the first being 0, where an epoch has so many.

        Both ends of the warm-up count, as in the authors' code, whose logs this gives to the last digit
        (tests/test_schedule.py); timm's schedulers reach `lr` an update later.
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
            f"{name} is {getattr(self, name):g} of {self.epochs} epochs, and the run has {epochs}: shortened to {new:g}."
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
        return from_table(cls, {**values, "model": tuple(values.get("model", {}).items())}, where=path)
