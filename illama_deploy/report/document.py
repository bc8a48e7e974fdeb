"""The report as a value; `to_dict` is `report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .gates import Gate, Verdict, overall

__all__ = ["SCHEMA", "Report"]

SCHEMA = "illama-deploy/report/1"


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        artifacts: baseline first; each with `info`, `accuracy`, `comparison` and `latency` (one per batch). One that
            could not run has `not_measured`, the reason, and neither accuracy nor comparison (None).
        data: spec, split, number of images, names of those left out.
        settings: limits and how was measured.
        environment: machine and versions.
    """

    gates: Sequence[Gate]
    artifacts: Sequence[dict[str, Any]]
    data: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """Over all gates."""
        return overall(self.gates)

    def exit_code(self, strict: bool = False) -> int:
        """0 pass, 1 fail, 3 inconclusive (1 with `strict`)."""
        inconclusive = 1 if strict else 3
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: inconclusive}[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """`report.json`."""
        return {
            "schema": SCHEMA,
            "verdict": str(self.verdict),
            "gates": [gate.to_dict() for gate in self.gates],
            "baseline": self.artifacts[0],
            "candidates": list(self.artifacts[1:]),
            "data": self.data,
            "settings": self.settings,
            "environment": self.environment,
        }
