"""What a search has to keep to, and what it may choose from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import UsageError, parameter
from ..formats import Format, parse_format
from ..recipe import Recipe
from .groups import bit_operations, stored_bits

__all__ = ["Limits"]

#: Formats that sites may get where none is named: those with kernels on CPUs.
CANDIDATES = ("W8A8", "W4A8")
HELD_OUT_IMAGES = 10_000


@dataclass(frozen=True)
class Limits:
    """Limits on the result, checked.

    Attributes:
        max_drop: in top-1, in points; None where only the size is limited.
        max_size: a number and its unit: `MB` (10^6 bytes), or `%` of the float network; None where the drop is limited.
        candidates: formats that sites may get; `with_recipe` fills them in where there are none.
        held_out_images: to measure the drop on.
        held_out_split: of the data; the calibration images' where None.
    """

    max_drop: float | None = None
    max_size: tuple[float, str] | None = None
    candidates: tuple[Format, ...] = ()
    held_out_images: int = HELD_OUT_IMAGES
    held_out_split: str | None = None

    @classmethod
    def read(
        cls,
        max_drop: float | None,
        max_size: str | None,
        candidates: Sequence[str] | None,
        held_out_images: int | None,
        held_out_split: str | None,
    ) -> Limits | None:
        """Check options as a user gives them; None where no search is asked for.

        Raises:
            UsageError: a limit that means nothing, no such format, or options of a search without a limit.
        """
        if max_drop is None and max_size is None:
            if candidates or held_out_images is not None or held_out_split is not None:
                raise UsageError(
                    "Options of a search are given, and no limit to search for.",
                    hint=f"Add {parameter(max_drop=0.5)} or {parameter(max_size='3MB')}, or leave "
                    f"{parameter('candidates')} and {parameter('held_out_*')} out.",
                )
            return None
        if max_drop is not None and not 0 < max_drop < 100:
            raise UsageError(
                f"A drop of at most {max_drop:g} points cannot be searched for.",
                hint="Give more than 0, as no number of images can show that nothing at all is lost: "
                f"{parameter(max_drop=0.5)}.",
            )
        if held_out_images is not None and held_out_images < 1:
            raise UsageError(
                "The drop needs at least one held-out image.", hint=f"Raise {parameter('held_out_images')}."
            )
        return cls(
            max_drop,
            None if max_size is None else _read_size(max_size),
            tuple(map(parse_format, candidates or ())),
            held_out_images or HELD_OUT_IMAGES,
            held_out_split,
        )

    def with_recipe(self, recipe: Recipe | None, effort: str = "balanced") -> tuple[Limits, Recipe]:
        """Complete candidates and recipe: where only one of them is given, the other follows from it.

        Returns:
            The limits with all candidates; the recipe given, or the shipped one, at this effort, of the candidate with
            the fewest bits. The recipe's format is for sites that no candidate suits.

        Raises:
            UsageError: fewer than two candidates.
        """
        usual = [*CANDIDATES, *([] if recipe is None else [recipe.format])]
        candidates = tuple(dict.fromkeys(self.candidates or map(parse_format, usual)))
        if len(candidates) < 2:
            raise UsageError(
                "A search needs formats to choose from.", hint=f"Give {parameter('candidates')} at least twice."
            )
        if recipe is None:
            fewest = min(candidates, key=lambda f: (stored_bits(f), bit_operations(1, f)))
            recipe = Recipe.for_format(fewest.name, effort)
        general = next((f for f in candidates if f.is_static), candidates[0])
        return replace(self, candidates=candidates), replace(recipe, format=general.name)

    def bytes_of(self, whole: int) -> float:
        """The size limit in bytes, for a float network of `whole` bytes; infinite where there is none."""
        if self.max_size is None:
            return float("inf")
        number, unit = self.max_size
        return number * (1e6 if unit == "MB" else whole / 100)


def _read_size(text: str) -> tuple[float, str]:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(MB|%)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]) or (found[2] == "%" and float(found[1]) > 100):
        raise UsageError(
            f"{text!r} is no size.",
            hint=f"Write {parameter(max_size='3MB')}, or {parameter(max_size='30%')} of the float network.",
        )
    return float(found[1]), (found[2] or "MB").upper()
