"""What is done to a network, as one frozen value: TOML in, and its resolved copy into every manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .calib import range_method
from .errors import RecipeError, UsageError, parameter
from .formats import Format, IntType, parse_format
from .rewrites import find_rewrites
from .rounding import rounding_method, weight_clip
from .tables import check_types, from_table, plain_values, read_toml

__all__ = ["Recipe"]

#: What no recipe needs more of; the images' streams are kept in memory.
MOST = {"calib_images": 1_000_000, "reconstruct": 1_000_000}
#: Site patterns in one key, and letters of one.
PATTERNS, LONGEST = 1000, 200
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
            raise RecipeError("Calibration needs at least one image.", hint=f"Raise {parameter('calib_images')}.")
        if self.reconstruct < 0:
            raise RecipeError("Block reconstruction takes no negative number of steps.", hint="Use 0 or more.")
        if self.seed < 0:
            raise RecipeError("The seed must not be negative.", hint=f"Use {parameter(seed=0)} or more.")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise RecipeError(
                    f"Recipe key {name!r} is {getattr(self, name)}; {most} is the most.", hint="Lower it."
                )
        for patterns in (self.include, self.exclude, [pattern for pattern, _ in self.overrides]):
            if len(patterns) > PATTERNS or any(len(pattern) > LONGEST for pattern in patterns):
                raise RecipeError(
                    f"A recipe takes {PATTERNS} site patterns of {LONGEST} letters at most.",
                    hint="Say it with wildcards, such as blocks.*.mlp.fc2.",
                )
        object.__setattr__(self, "format", _format(self.format))
        if len(set(self.rewrites)) != len(self.rewrites):
            raise RecipeError("A rewrite stands in the recipe twice.", hint="Name each once, in the order to be done.")
        # What it names exists.
        find_rewrites(self.rewrites), range_method(self.range), weight_clip(self.weight_clip)
        if self.reconstruct and not rounding_method(self.rounding).needs_moments:
            raise RecipeError(
                f"Blocks are reconstructed one after the other, and {self.rounding!r} rounds all at once.",
                hint='Say rounding = "gptaq" (or "gptq") beside reconstruct.',
            )
        rounding_method(self.rounding)

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
            f"Recipe key 'overrides' needs a table of site patterns and formats, not {value!r:.80}.",
            hint='Write it as overrides = { "patch_embed.proj" = "W8A8" }.',
        )
    return tuple((pattern, _format(name)) for pattern, name in pairs)


def _format(name: str) -> str:
    """A format's name in its full form."""
    try:
        return parse_format(name).name
    except UsageError as error:
        raise RecipeError(error.what, hint=error.hint) from None
