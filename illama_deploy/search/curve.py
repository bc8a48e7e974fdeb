"""Assignments of formats from the most exact to the cheapest, and how to find the cheapest good one with few looks.

What errors of different sites cost in KL divergence of the logits nearly adds up, so the best assignment for a sum of
bytes is a knapsack problem: each group takes one of its choices. Always taking the step that costs the least KL for
each byte it saves, along the convex hull of each group's choices, solves it for every sum of bytes that it passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..formats import Format

__all__ = ["Choice", "Point", "cheapest_passing", "most_probes", "walk"]


@dataclass(frozen=True)
class Choice:
    """A format of a group of sites.

    Attributes:
        bytes: stored, weights and their step sizes.
        work: bit operations for one image.
        kl: what it costs alone, see `Divergence`.
        sqnr_db: of the logits, likewise.
    """

    format: Format
    bytes: int
    work: int
    kl: float
    sqnr_db: float


@dataclass(frozen=True)
class Point:
    """An assignment.

    Attributes:
        choices: of each group.
        changed: the group that gets cheaper here; None at the start.
    """

    choices: Mapping[str, Choice]
    changed: str | None = None

    @property
    def kl(self) -> float:
        """KL divergence to be expected, if errors add up."""
        return sum(choice.kl for choice in self.choices.values())

    @property
    def work(self) -> int:
        """Bit operations of these sites for one image."""
        return sum(choice.work for choice in self.choices.values())


def walk(groups: Mapping[str, Sequence[Choice]]) -> list[Point]:
    """Assignments from the least KL to the fewest bytes, one group changed at a time; then on to the least work.

    Among choices of the same bytes the one with the least KL is taken first. Those that save work alone come after all
    that save bytes, ordered by KL for the work they save.
    """
    start: dict[str, Choice] = {}
    steps: list[tuple[int, float, str, Choice]] = []
    for name, choices in groups.items():
        path = [min(choices, key=lambda c: (c.kl, c.bytes, c.work))]
        start[name] = path[0]
        for stage, cost in enumerate((_bytes, _work)):
            while cheaper := [c for c in choices if _is_step(path[-1], c, cost)]:
                best = min(cheaper, key=lambda c: (_slope(path[-1], c, cost), c.bytes, c.work))
                steps.append((stage, _slope(path[-1], best, cost), name, best))
                path.append(best)
    points = [Point(start)]
    # The sort is stable, and a group's slopes rise along its hull, so its own steps stay in order.
    for _, _, name, choice in sorted(steps, key=lambda step: step[:2]):
        points.append(Point({**points[-1].choices, name: choice}, name))
    return points


def _bytes(choice: Choice) -> int:
    return choice.bytes


def _work(choice: Choice) -> int:
    return choice.work


def _is_step(current: Choice, choice: Choice, cost: Callable[[Choice], int]) -> bool:
    """Whether it costs less, and no more bytes."""
    return cost(choice) < cost(current) and choice.bytes <= current.bytes


def _slope(current: Choice, choice: Choice, cost: Callable[[Choice], int]) -> float:
    return (choice.kl - current.kl) / (cost(current) - cost(choice))


def most_probes(points: int) -> int:
    """How often `cheapest_passing` looks at most."""
    return 1 + math.ceil(math.log2(points))


def cheapest_passing(first: int, last: int, passes: Callable[[int], bool]) -> int | None:
    """The last index of `first`..`last` that passes, or None: exactly, if none passes behind one that fails.

    The last is looked at first, then halves are. What is returned has been looked at and passed.
    """
    if passes(last):
        return last
    low, high = first - 1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low if low >= first else None
