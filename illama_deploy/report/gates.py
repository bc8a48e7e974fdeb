"""Gates with three outcomes: what cannot be told apart from luck is inconclusive, never a pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ..measure.statistics import Interval

__all__ = ["Gate", "Verdict", "overall"]


class Verdict(StrEnum):
    """Outcome of a gate."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Gate:
    """A figure against its limit.

    Attributes:
        name: `accuracy_drop` (points of top-1) or `latency_ratio`.
        artifact: the candidate.
        detail: what sets it apart from gates of the same name, such as `batch 8`.
        verdict: pass if the whole interval is at or below the limit, fail if the whole of it is above.
    """

    name: str
    artifact: str
    detail: str
    limit: float
    value: float
    low: float
    high: float
    verdict: Verdict

    @classmethod
    def judge(cls, name: str, artifact: str, detail: str, limit: float, interval: Interval) -> Gate:
        """Compare an interval with a limit."""
        if interval.high <= limit:
            verdict = Verdict.PASS
        elif interval.low > limit:
            verdict = Verdict.FAIL
        else:
            verdict = Verdict.INCONCLUSIVE
        return cls(name, artifact, detail, limit, *interval, verdict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "verdict": str(self.verdict)}


def overall(gates: Iterable[Gate]) -> Verdict:
    """Fail if any fails, else inconclusive if any is, else pass."""
    verdicts = {gate.verdict for gate in gates}
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS
