"""What is done to a network, as one frozen value: TOML in, and its resolved copy into every manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .errors import RecipeError, UsageError
from .formats import Format, IntType, parse_format
from .tables import check_types, from_table, plain_values, read_toml

__all__ = ["Recipe"]

SHIPPED = Path(__file__).parent / "recipes"


def _best(recipe: Recipe) -> dict[str, Any]:
    """FP8 has nothing to reconstruct: its steps are as fine as the numbers are small."""
    if not isinstance(recipe.number_format.weights, IntType):
        return {}
    rounding = recipe.rounding if recipe.rounding != "nearest" else "gptaq"
    return {"reconstruct": 600, "rounding": rounding, "calib_images": max(recipe.calib_images, 1024)}


#: What an effort changes of a shipped recipe.
EFFORTS: dict[str, Callable[[Recipe], dict[str, Any]]] = {
    "fast": lambda recipe: {"calib_images": min(recipe.calib_images, 256)},
    "balanced": lambda recipe: {},
    "best": _best,
}


@dataclass(frozen=True)
class Recipe:
    """A complete description of one post-training quantization.

    Attributes:
        format: name of the number format, such as `W8A8`.
        rewrites: exact rewrites, in order.
        range: range method of activations: `minmax`, `percentile[:P]`, `mse`, `entropy`, `auto`.
        rounding: rounding method of weights: `nearest`, `gptq`, `gptaq`.
        weight_clip: how a weight channel's step size is chosen: `minmax` or `mse`.
        reconstruct: steps of block reconstruction, block by block, after rounding; 0 for none.
        include, exclude: glob patterns on site names; an exclusion wins.
        attention_products: quantize q·kᵀ and attention·v too.
        overrides: (glob pattern on site names, format) pairs; the last that matches a site decides. A table in TOML.
        calib_images: number of calibration images.
        seed: of the draw of calibration images, and of random rotations.
    """

    format: str = "W8A8"
    rewrites: tuple[str, ...] = (
        "fold_norms",
        "fold_attention_scale",
        "class_token_last_block",
        "smooth_norms",
        "smooth_swiglu",
    )
    range: str = "percentile:99.999"
    rounding: str = "nearest"
    weight_clip: str = "mse"
    reconstruct: int = 0
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    attention_products: bool = False
    overrides: tuple[tuple[str, str], ...] = ()
    calib_images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", _overrides(self.overrides))
        check_types(self, skip=["overrides"])
        if self.calib_images < 1:
            raise RecipeError("Calibration needs at least one image.", hint="Raise --calib-images.")
        if self.reconstruct < 0:
            raise RecipeError("Block reconstruction takes no negative number of steps.", hint="Use 0 or more.")
        if self.seed < 0:
            raise RecipeError("The seed must not be negative.", hint="Use --seed 0 or more.")
        object.__setattr__(self, "format", parse_format(self.format).name)

    @property
    def number_format(self) -> Format:
        """`format` as a value."""
        return parse_format(self.format)

    def format_of(self, site: str) -> Format:
        """The format of a site: `format`, or what the last matching override says."""
        chosen = [name for pattern, name in self.overrides if fnmatchcase(site, pattern)]
        return parse_format(chosen[-1] if chosen else self.format)

    def override(self, **options: Any) -> Recipe:
        """Replace what is given (not None), as flags do."""
        return replace(self, **{key: value for key, value in options.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**plain_values(self), "overrides": dict(self.overrides)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: object | None = None) -> Recipe:
        """Build from plain values.

        Raises:
            RecipeError: an unknown key (the nearest known one is named) or a value of another type.
        """
        return from_table(cls, values, where=where)

    @classmethod
    def for_format(cls, name: str, effort: str = "balanced") -> Recipe:
        """The shipped recipe of a format, whatever its group size; the default one where none is shipped for it.

        Args:
            effort: `fast` (fewer images), `balanced` (the shipped recipe), or `best` (block reconstruction on top).

        Raises:
            UsageError: no such format or effort.
        """
        format_ = parse_format(name)
        if effort not in EFFORTS:
            raise UsageError(f"There is no effort {effort!r}.", hint=f"Use one of: {', '.join(EFFORTS)}.")
        shipped = SHIPPED / f"{format_.base.lower()}.toml"
        recipe = replace(cls.read(shipped) if shipped.is_file() else cls(), format=format_.name)
        return replace(recipe, **EFFORTS[effort](recipe))

    @classmethod
    def read(cls, name: str | Path) -> Recipe:
        """Read a TOML file, or a shipped recipe by its name (such as `w8a8`).

        Raises:
            RecipeError: not there, not TOML, or not a recipe.
        """
        values, path = read_toml(name, SHIPPED)
        return cls.from_dict(values, where=path)


def _overrides(value: Any) -> tuple[tuple[str, str], ...]:
    """Check a table (or pairs) of pattern to format name; names in their full form."""
    try:
        pairs = tuple((pattern, name) for pattern, name in (value.items() if isinstance(value, dict) else value))
    except (TypeError, ValueError):
        pairs = ((None, None),)
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise RecipeError(
            f"Recipe key 'overrides' needs a table of site patterns and formats, not {value!r}.",
            hint='Write it as overrides = { "patch_embed.proj" = "W8A8" }.',
        )
    return tuple((pattern, parse_format(name).name) for pattern, name in pairs)
