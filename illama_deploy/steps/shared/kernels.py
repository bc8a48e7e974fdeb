"""What runs a format, said before anything is made in it."""

from __future__ import annotations

from collections.abc import Iterable

from ...formats import BITS, Format
from ...targets import ALL, TARGETS

__all__ = ["kernel_lines", "kernels_of"]


def kernels_of(formats: Iterable[Format]) -> dict[str, dict[str, str]]:
    """Format (`Format.base`) to the targets that run it, each with how; nothing for one that is only simulated."""
    return {
        base: {name: how for name, target in TARGETS.items() if (how := target.runs(base)) is not None}
        for base in dict.fromkeys(format_.base for format_ in formats)
    }


def kernel_lines(formats: Iterable[Format]) -> list[str]:
    """A line for each format: what runs it, or, those first, that nothing does and what that means."""
    return [_line(base, found) for base, found in sorted(kernels_of(formats).items(), key=lambda pair: bool(pair[1]))]


def _line(base: str, found: dict[str, str]) -> str:
    if found:
        return f"{base} runs in " + "; ".join(f"{TARGETS[name].runtime}: {how}" for name, how in found.items())
    why = dict.fromkeys(target.gap(base).why for target in TARGETS.values())
    others = [target for name, target in ALL.items() if name not in TARGETS and target.runs(base) is not None]
    only = "".join(f" (only {target.runtime} has, --target {target.name})" for target in others)
    return (
        f"{base} is simulated: no target that files are exported for has a kernel for it{only}: {'; '.join(why)}. "
        "Its accuracy can be measured, and files for that with 'export --simulate'; none of them is faster for it. "
        f"What runs on CPUs and in TensorRT is made by --bits {' and --bits '.join(BITS)}."
    )
