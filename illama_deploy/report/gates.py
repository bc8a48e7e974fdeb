"""Gates with three outcomes: what cannot be told apart from luck is inconclusive, never a pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from ..measure.statistics import Interval
from ..tasks import TASKS, Task

__all__ = ["GATES", "Gate", "GateKind", "Verdict", "overall"]


class Verdict(StrEnum):
    """Outcome of a gate."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class GateKind:
    """How a gate of one name is shown.

    Attributes:
        title: its name for people.
        unit: behind each figure.
        digits: of each figure, behind the point.
        at_least: the limit is the least that is allowed, not the most.
    """

    title: str
    unit: str
    digits: int
    at_least: bool = False

    def limit(self, value: float) -> str:
        """A limit as it is shown."""
        return f"{'≥' if self.at_least else '≤'} {value:.4g}{self.unit}"


def _of(task: Task) -> dict[str, GateKind]:
    """The gates on a task's figure."""
    return {
        task.drop_gate: GateKind(f"{task.title} drop", " points", 2),
        task.change_gate: GateKind(f"{task.title} drop since the stored report", " points", 2),
        task.least_gate: GateKind(task.title, " %", 2, at_least=True),
    }


#: Every kind of gate by name.
GATES = {
    **{name: kind for task in TASKS.values() for name, kind in _of(task).items()},
    "latency_ratio": GateKind("latency ratio", "×", 3),
    "latency_change": GateKind("latency ratio / stored ratio", "×", 3),
    # These two are shown only where they do not pass.
    "not_finite": GateKind("logits that are NaN or infinite", "", 0),
    "chance": GateKind("better than chance", " %", 2, at_least=True),
}


@dataclass(frozen=True)
class Gate:
    """A figure against its limit.

    Attributes:
        name: a key of `GATES`.
        artifact: the candidate.
        detail: what sets it apart from gates of the same name, such as `batch 8`.
        value, low, high: the figure and its interval, or None where it was not measured.
        verdict: pass if the whole interval is at or below the limit (above it where that is the least that is allowed),
            fail if the whole of it is on the other side.
        against: what the candidate is compared with, or None.
        not_measured: why it was not, or None.
    """

    name: str
    artifact: str
    detail: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    against: str | None = None
    not_measured: str | None = None

    @classmethod
    def judge(cls, name: str, artifact: str, detail: str, limit: float, interval: Interval) -> Gate:
        """Compare an interval with a limit."""
        at_least = GATES[name].at_least
        if (interval.low >= limit) if at_least else (interval.high <= limit):
            verdict = Verdict.PASS
        elif (interval.high < limit) if at_least else (interval.low > limit):
            verdict = Verdict.FAIL
        else:
            verdict = Verdict.INCONCLUSIVE
        return cls(name, artifact, detail, limit, *interval, verdict)

    @classmethod
    def unmeasured(cls, name: str, artifact: str, detail: str, limit: float, reason: str) -> Gate:
        """A figure that could not be had on this machine: inconclusive."""
        return cls(name, artifact, detail, limit, None, None, None, Verdict.INCONCLUSIVE, not_measured=reason)

    def versus(self, against: str | None) -> Gate:
        """The same, saying what the candidate is compared with."""
        return replace(self, against=against)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `not_measured` only where it is said."""
        values = {**asdict(self), "verdict": str(self.verdict)}
        return {key: value for key, value in values.items() if key != "not_measured" or value is not None}


def overall(gates: Iterable[Gate]) -> Verdict:
    """Fail if any fails, else inconclusive if any is, else pass."""
    verdicts = {gate.verdict for gate in gates}
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS
