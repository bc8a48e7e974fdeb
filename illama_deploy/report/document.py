"""The report as a value; `to_dict` is `report.json` (`report.schema.json`), from which every other form is made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import as_text
from ..errors import ArtifactError
from ..sealed import SEAL, parse_json, read_text, seal, seal_of
from .consistency import contradictions
from .gates import Gate, Verdict, overall

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

__all__ = ["SCHEMA", "Report", "load_schema", "read_report", "seal"]

SCHEMA = "illama-deploy/report/2"
#: Faults of a document that are looked at, and characters of one that are shown.
MOST_FAULTS, LONGEST = 50, 300
AGAIN = "Measure again with 'illama-deploy check'."


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        artifacts: each with `role`, `target`, `info`, `accuracy`, `comparison`, `latency` (one per batch) and `proof`;
            the first is the one that accuracy is compared with. One that could not run has `not_measured`, the reason,
            and neither accuracy nor comparison (None).
        notes: in words: whether quantization pays, what disturbed the measurement.
        data: task, spec, split, number of images, names of those left out, hash of the pixels and labels.
        settings: limits and how was measured.
        environment: machine and versions.
        conditions: clocks and load while latency was measured.
        quantized: the quantized checkpoints that candidates came from, site by site, where they were found.
        stored: the report that this one was held against, or None.
        pictures: predictions drawn over images, where pixels are classified: `image`, `shows` (what) and `uri` each.
        command: that made it.
        created: when, ISO 8601 in UTC.
    """

    gates: Sequence[Gate]
    artifacts: Sequence[dict[str, Any]]
    notes: Sequence[str]
    data: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    conditions: dict[str, Any]
    quantized: Sequence[dict[str, Any]] = ()
    stored: dict[str, Any] | None = None
    pictures: Sequence[dict[str, str]] = ()
    command: str | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    @property
    def verdict(self) -> Verdict:
        """Over all gates."""
        return overall(self.gates)

    def exit_code(self, strict: bool = False) -> int:
        """0 pass, 1 fail, 3 inconclusive (1 with `strict`)."""
        inconclusive = 1 if strict else 3
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: inconclusive}[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """`report.json`, sealed."""
        return seal(
            as_text(
                {
                    "schema": SCHEMA,
                    "created": self.created,
                    "command": self.command,
                    "verdict": str(self.verdict),
                    "gates": [gate.to_dict() for gate in self.gates],
                    "notes": list(self.notes),
                    "artifacts": list(self.artifacts),
                    "data": self.data,
                    "settings": self.settings,
                    "environment": self.environment,
                    "conditions": self.conditions,
                    "quantized": list(self.quantized),
                    "stored": self.stored,
                }
                | ({"pictures": list(self.pictures)} if self.pictures else {})
            )
        )


@cache
def load_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `report.json`."""
    return json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(load_schema())


def read_report(path: Path) -> dict[str, Any]:
    """Read a `report.json` and hold it to its schema, to its hash, and to itself.

    Raises:
        ArtifactError: not there, cut short, of another schema version, edited, or not a report at all.
    """
    from jsonschema.exceptions import best_match

    try:
        content = parse_json(read_text(path, "The report", AGAIN))
    except ValueError as error:
        raise ArtifactError(
            f"The report is no JSON ({error}); it may be cut short.", where=path, hint=f"Copy it again. {AGAIN}"
        ) from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        family, _, version = str(found).rpartition("/")
        if family == SCHEMA.rpartition("/")[0] and version.isdecimal() and len(version) < 10:
            age = "an older" if int(version) < int(SCHEMA.rpartition("/")[2]) else "another"
            raise ArtifactError(
                f"The report is of {age} schema, {found}; this version of illama-deploy reads {SCHEMA}.",
                where=path,
                hint=f"{AGAIN} Or read it with the version that wrote it.",
            )
        raise ArtifactError("It is no report of 'illama-deploy check'.", where=path, hint="Give a report.json.")
    if seal_of(content) != content.get(SEAL):
        raise ArtifactError(
            "The report was edited after it was written (its content does not match its own hash).",
            where=path,
            hint=f"Take the file as it was written. {AGAIN}",
        )
    faults = islice(_validator().iter_errors(content), MOST_FAULTS)
    if (fault := best_match(faults)) is not None:
        said = fault.message if len(fault.message) < LONGEST else f"…{fault.message[-LONGEST:]}"
        raise ArtifactError(
            f"The report does not keep to its schema: {said} (at {fault.json_path[:LONGEST]}).", where=path, hint=AGAIN
        )
    if (problem := next(contradictions(content), None)) is not None:
        raise ArtifactError(f"The report contradicts itself: {problem}.", where=path, hint=AGAIN)
    return content
