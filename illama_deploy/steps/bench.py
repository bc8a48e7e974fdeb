"""Latency of artefacts, interleaved in one process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import new_file
from ..environment import describe_environment
from ..errors import UsageError
from ..hashing import canonical_json
from ..measure import Latency, measure_latency
from ..progress import track
from ..runtime import Runtime, open_artifact

__all__ = ["Benchmark", "bench", "measure_batches"]

FEWEST_ROUNDS = 10


@dataclass(frozen=True)
class Benchmark:
    """Latencies: for each artefact, one entry per batch size; ratios are to the first artefact."""

    artifacts: tuple[dict[str, Any], ...]
    latencies: tuple[tuple[Latency, ...], ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "artifacts": [
                {"info": info, "latency": [latency.to_dict() for latency in latencies]}
                for info, latencies in zip(self.artifacts, self.latencies, strict=True)
            ],
            "environment": self.environment,
        }


def bench(
    artifacts: Sequence[str | Path | Runtime],
    *,
    batch: Sequence[int] = (1,),
    threads: int = 1,
    seconds: float = 5.0,
    rounds: int | None = None,
    confidence: float = 0.95,
    heads: int | None = None,
    json: str | Path | None = None,
) -> Benchmark:
    """Time artefacts in turns and compare each with the first.

    Args:
        artifacts: paths, or opened artefacts.
        batch: batch sizes.
        threads: that each artefact may use.
        seconds: about how long to measure at each batch size.
        rounds: an exact number instead.
        json: file to write the figures to.

    Raises:
        DeployError: bad input; nothing is written.
    """
    if not artifacts:
        raise UsageError("Nothing to time.", hint="Name one or more artefacts.")
    with ExitStack() as outputs:
        # Opened first, so that a place that cannot be written shows before any work is done.
        inputs = [a for a in artifacts if isinstance(a, str | Path)]
        file = None if json is None else outputs.enter_context(new_file(Path(json), force=True, inputs=inputs))
        runtimes = [a if isinstance(a, Runtime) else open_artifact(a, threads=threads, heads=heads) for a in artifacts]
        latencies = measure_batches(runtimes, batch, seconds=seconds, rounds=rounds, confidence=confidence)
        result = Benchmark(tuple(r.info.to_dict() for r in runtimes), latencies, describe_environment())
        if file is not None:
            file.write_text(canonical_json(result.to_dict()), encoding="utf-8")
    return result


def measure_batches(
    runtimes: Sequence[Runtime],
    batches: Sequence[int],
    *,
    seconds: float,
    rounds: int | None,
    confidence: float,
) -> tuple[tuple[Latency, ...], ...]:
    """Measure every batch size; one row per artefact.

    Raises:
        UsageError: a batch size or duration that makes no sense, or artefacts for images of different sizes.
    """
    if not batches or min(batches) < 1:
        raise UsageError("A batch needs at least one image.", hint="Raise --batch.")
    if seconds <= 0 or (rounds is not None and rounds < FEWEST_ROUNDS):
        raise UsageError(
            f"An interval needs some time, or at least {FEWEST_ROUNDS} rounds.", hint="Raise --seconds or --rounds."
        )
    if not 0.5 <= confidence < 1:
        raise UsageError("The confidence must be at least 0.5 and below 1.", hint="Use --confidence 0.95.")
    shapes = {(r.preprocessing.channels, *r.preprocessing.size) for r in runtimes}
    if len(shapes) > 1:
        sizes = ", ".join(f"{r.info.name} {r.preprocessing.size}" for r in runtimes)
        raise UsageError(f"The artefacts take images of different sizes: {sizes}.", hint="Time each by itself.")
    columns = [
        measure_latency(runtimes, size, seconds=seconds, rounds=rounds, confidence=confidence)
        for size in track(batches, "Timing", len(batches))
    ]
    return tuple(zip(*columns, strict=True))
