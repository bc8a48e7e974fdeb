"""What a mutant's outcome is worth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from .kinds import Kind
from .server import Outcome

__all__ = ["FAILURES", "Original", "answers", "judge", "tree"]

#: Verdicts that a mutant must not get; the others are `refused`, `same` and `other`.
FAILURES = (
    "unexpected", "traceback", "crash", "time", "memory", "trap", "outside", "half-written", "code", "other answers",
    "exit code", "no message", "no JSON", "original",
)  # fmt: skip
#: Of what a file asks for, over what its original takes.
MORE_BYTES = 512 << 20
#: Figures that no two runs share.
CLOCKED = re.compile(
    r"(^|_)(latency|ms|seconds|created|times?|share|throughput|conditions|environment|command|ratio|settings)(_|$)"
)


@dataclass(frozen=True)
class Original:
    """What a command gives on whole files.

    Attributes:
        fails: what it says, where it does not even take them: then the campaign is at fault.
    """

    answers: str
    peak_bytes: int
    events: tuple[str, ...]
    fails: str = ""


def judge(
    kind: Kind, whole: bool, outcome: Outcome, original: Original, found: str, strange: list[str], left: list[str]
) -> str:
    """One word for how a mutant went.

    Args:
        whole: whether its edit made a file that somebody could have written.
        found: its answers.
        strange: files that were written outside of the output, changed or removed.
        left: what stands in the output's place, which after an error is nothing.
    """
    if outcome.ended:
        return outcome.ended
    if outcome.code < 0:
        return "crash"
    if "Traceback" in outcome.err or "Traceback" in outcome.out:
        return "traceback"
    if re.search(r"^error: Unexpected \w+:", outcome.err, re.MULTILINE):
        return "unexpected"
    if outcome.code not in (0, 1, 2, 3):
        return "exit code"
    if "Out of memory" in outcome.err or outcome.peak_bytes > original.peak_bytes + MORE_BYTES:
        return "memory"
    if set(outcome.events) - set(original.events):
        return "code"
    if strange:
        return "outside"
    if outcome.code == 2:
        if not outcome.err.startswith("error: ") and "\nerror: " not in outcome.err:
            return "no message"
        # A run that diverges leaves its last good state to go on from, and says so.
        return "half-written" if left and "The last good state is" not in outcome.err else "refused"
    if found == "no JSON":
        return found
    if found == original.answers:
        return "same"
    return "other" if whole or kind.guard == "none" else "other answers"


def tree(place: Path) -> dict[str, str]:
    """Every file, link and folder, and the hash of what is in it."""
    return {
        str(path.relative_to(place)): "folder" if path.is_dir() and not path.is_symlink()
        else sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"
        for path in sorted(place.rglob("*"))
    }  # fmt: skip


def answers(place: Path, command: tuple[str, ...]) -> str:
    """What a command found, without what hangs on the clock."""
    out = place / ("run" if "--resume" in command else "out")
    parts = []
    for path in sorted(out.rglob("*")):
        if not path.is_file() or path.name in ("log.jsonl", "state.pt", "curves.png"):
            continue
        name = str(path.relative_to(out))
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                value = "".join(
                    sha256(np.ascontiguousarray(arrays[key]).tobytes()).hexdigest() for key in sorted(arrays.files)
                )
        elif path.suffix == ".json" and command[0] != "report":
            try:
                content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
            except ValueError:
                return "no JSON"
            value = _plain(content)
        elif command[0] in ("check", "bench"):
            continue  # faces of a report, with its times
        else:
            value = sha256(path.read_bytes()).hexdigest()
        parts.append(f"{name}={value}")
    return sha256("\n".join(parts).encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _plain(value: Any) -> str:
    """JSON without figures that a clock has made, nor hashes of files."""
    if isinstance(value, Mapping):
        if "gates" in value:  # a report: gates on times, and the verdict and the notes that follow from them
            value = {
                **{k: v for k, v in value.items() if k not in ("verdict", "notes")},
                "gates": [gate for gate in value["gates"] if not CLOCKED.search(gate["name"])],
            }
        if value.get("unit") in ("ms", "×"):
            return "a time"
        kept = {k: _plain(v) for k, v in value.items() if not CLOCKED.search(k) and "sha256" not in k}
        return json.dumps(kept, sort_keys=True)
    if isinstance(value, list):
        return json.dumps([_plain(v) for v in value])
    return json.dumps(value)
