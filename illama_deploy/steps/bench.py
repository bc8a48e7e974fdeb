"""Latency of artifacts, interleaved in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..atomic import new_file
from ..console import as_text
from ..environment import describe_environment
from ..errors import UsageError, parameter
from ..hashing import canonical_json
from ..measure import Latency, measure_latency
from ..options import step
from ..options.steps import BenchOptions
from ..progress import track
from ..runtime import Runtime, Unavailable
from ..targets.open import open_if_available
from .shared.inputs import refuse_stale

__all__ = ["Benchmark", "bench", "measure_batches"]

FEWEST_ROUNDS = 10
T = TypeVar("T")


@dataclass(frozen=True)
class Benchmark:
    """Latencies: for each artifact, one entry per batch size; ratios are to the first artifact.

    Attributes:
        not_measured: for each artifact, why it cannot run on this machine, or None; such a one has no latencies.
            Where the first has none, nothing has a ratio.
    """

    artifacts: tuple[dict[str, Any], ...]
    latencies: tuple[tuple[Latency, ...], ...]
    not_measured: tuple[str | None, ...]
    environment: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """0, or 3 where something was not measured."""
        return 3 if any(self.not_measured) else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        no_ratio = {} if self.not_measured[0] is None else {"ratio": None, "ratio_low": None, "ratio_high": None}
        return {
            "artifacts": [
                {"info": info, "latency": [latency.to_dict() | no_ratio for latency in latencies]}
                | ({} if reason is None else {"not_measured": reason})
                for info, latencies, reason in zip(self.artifacts, self.latencies, self.not_measured, strict=True)
            ],
            "environment": self.environment,
        }


@step(BenchOptions)
def bench(options: BenchOptions) -> Benchmark:
    """Time artifacts in turns and compare each with the first; one that cannot run on this machine is left out.

    Raises:
        DeployError: bad input; nothing is written.
    """
    artifacts, timing, json = options.artifacts, options.timing, options.figures.json
    if not artifacts:
        raise UsageError("Nothing to time.", hint="Name one or more artifacts.")
    refuse_stale(*artifacts)
    with ExitStack() as outputs:
        # Opened first, so that a place that cannot be written shows before any work is done.
        inputs = [a for a in artifacts if isinstance(a, str | Path)]
        file = None if json is None else outputs.enter_context(new_file(json, force=True, inputs=inputs))
        opening = {
            "threads": timing.threads,
            **options.geometry.flat(),
            **options.backend.flat(),
            **options.running.flat(),
        }
        runtimes = [a if isinstance(a, Runtime) else open_if_available(a, **opening) for a in artifacts]
        latencies = measure_batches(
            runtimes, timing.batch, seconds=timing.seconds, rounds=timing.rounds, confidence=timing.confidence
        )
        result = Benchmark(
            tuple(r.info.to_dict() for r in runtimes),
            latencies,
            tuple(r.reason if isinstance(r, Unavailable) else None for r in runtimes),
            describe_environment(),
        )
        if file is not None:
            file.write_text(canonical_json(as_text(result.to_dict())), encoding="utf-8")
    return result


def measure_batches(
    artifacts: Sequence[Runtime | Unavailable],
    batches: Sequence[int],
    *,
    seconds: float,
    rounds: int | None,
    confidence: float,
    on_round: Callable[[], None] | None = None,
) -> tuple[tuple[Latency, ...], ...]:
    """Measure every batch size; one row per artifact, an empty one for what cannot run on this machine.

    Args:
        on_round: called after each timed round.

    Raises:
        UsageError: a batch size or duration that makes no sense or that an artifact does not take, or artifacts for
            images of different sizes.
    """
    runtimes = [artifact for artifact in artifacts if isinstance(artifact, Runtime)]
    if not batches or min(batches) < 1:
        raise UsageError("A batch needs at least one image.", hint=f"Raise {parameter('batch')}.")
    if seconds <= 0 or (rounds is not None and rounds < FEWEST_ROUNDS):
        raise UsageError(
            f"An interval needs some time, or at least {FEWEST_ROUNDS} rounds.",
            hint=f"Raise {parameter('seconds')} or {parameter('rounds')}.",
        )
    if not 0.5 <= confidence < 1:
        raise UsageError("The confidence must be at least 0.5 and below 1.", hint=f"Use {parameter(confidence=0.95)}.")
    for artifact in artifacts:
        if (accepted := artifact.batches) is not None:
            for size in batches:
                accepted.require(size)
    shapes = {(r.preprocessing.channels, *r.preprocessing.size) for r in runtimes}
    if len(shapes) > 1:
        sizes = ", ".join(f"{r.info.name} {r.preprocessing.size}" for r in runtimes)
        raise UsageError(f"The artifacts take images of different sizes: {sizes}.", hint="Time each by itself.")
    if not runtimes:
        return tuple(() for _ in artifacts)
    columns = [
        measure_latency(runtimes, size, seconds=seconds, rounds=rounds, confidence=confidence, on_round=on_round)
        for size in track(batches, "Timing", len(batches))
    ]
    rows = iter(zip(*columns, strict=True))
    return tuple(next(rows) if isinstance(artifact, Runtime) else () for artifact in artifacts)
