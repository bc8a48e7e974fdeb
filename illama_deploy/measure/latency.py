"""Latency, measured so that a shared machine's moods cancel: artifacts take turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.runtime import Runtime
from .statistics import Interval, median_ratio

__all__ = ["Latency", "measure_latency"]

WARMUP_ROUNDS = 5
MIN_ROUNDS = 30
MAX_ROUNDS = 2000
#: A percentile is reported only where at least this many samples lie beyond it on average.
BEYOND = 10
#: A round is an outlier where it lies more than so many median absolute deviations above the median.
OUTLYING = 10.0
#: Steps of the distribution that a report draws, in percent.
QUANTILES = tuple(2.5 * i for i in range(41))


@dataclass(frozen=True)
class Latency:
    """Times of one artifact at one batch size.

    Attributes:
        seconds: of each round, in order [rounds].
        ratio: paired ratio to the first artifact.
    """

    batch: int
    threads: int
    warmup_rounds: int
    seconds: np.ndarray
    ratio: Interval

    def percentile(self, percent: float) -> float | None:
        """A percentile in milliseconds, or None where there are too few samples to know it."""
        if len(self.seconds) * (1 - percent / 100) < BEYOND:
            return None
        return float(np.percentile(self.seconds, percent)) * 1e3

    @property
    def cv(self) -> float:
        """Coefficient of variation: standard deviation / mean."""
        return float(self.seconds.std() / self.seconds.mean())

    @property
    def outliers(self) -> int:
        """Rounds far above the median: more than ten median absolute deviations."""
        median = np.median(self.seconds)
        return int((self.seconds > median + OUTLYING * np.median(np.abs(self.seconds - median))).sum())

    @property
    def drift(self) -> float:
        """Median of the last quarter of the rounds / that of the first: above 1 where the machine grew slower."""
        quarter = max(len(self.seconds) // 4, 1)
        return float(np.median(self.seconds[-quarter:]) / np.median(self.seconds[:quarter]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        p50 = float(np.median(self.seconds)) * 1e3
        return {
            "batch": self.batch,
            "threads": self.threads,
            "rounds": len(self.seconds),
            "warmup_rounds": self.warmup_rounds,
            "p50_ms": p50,
            "p90_ms": self.percentile(90),
            "p99_ms": self.percentile(99),
            "images_per_s": 1e3 * self.batch / p50,
            "cv": self.cv,
            "outliers": self.outliers,
            "drift": self.drift,
            "quantiles_ms": [round(float(q) * 1e3, 4) for q in np.percentile(self.seconds, QUANTILES)],
            "ratio": self.ratio.value,
            "ratio_low": self.ratio.low,
            "ratio_high": self.ratio.high,
        }


def measure_latency(
    runtimes: Sequence[Runtime],
    batch: int,
    *,
    seconds: float = 5.0,
    rounds: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    on_round: Callable[[], None] | None = None,
) -> list[Latency]:
    """Time one inference of each artifact in each round, in an order drawn anew each time.

    Args:
        seconds: rounds go on for about this long (at least 30, at most 2,000 of them).
        rounds: an exact number instead.
        on_round: called after each timed round.
    """
    rng = np.random.default_rng(seed)
    first = runtimes[0].preprocessing
    images = rng.standard_normal((batch, first.channels, *first.size), dtype=np.float32)
    for _ in range(WARMUP_ROUNDS):
        for runtime in runtimes:
            runtime.run(images)
    times: list[np.ndarray] = []
    end = time.perf_counter() + seconds
    while _wants_more(len(times), rounds, time.perf_counter() < end):
        row = np.empty(len(runtimes))
        for i in rng.permutation(len(runtimes)):
            start = time.perf_counter()
            runtimes[i].run(images)
            row[i] = time.perf_counter() - start
        times.append(row)
        if on_round is not None:
            on_round()
    table = np.stack(times)
    return [
        Latency(batch, runtime.threads, WARMUP_ROUNDS, column, median_ratio(column, table[:, 0], confidence))
        for runtime, column in zip(runtimes, table.T, strict=True)
    ]


def _wants_more(done: int, rounds: int | None, in_time: bool) -> bool:
    if rounds is not None:
        return done < rounds
    return done < MIN_ROUNDS or (in_time and done < MAX_ROUNDS)
