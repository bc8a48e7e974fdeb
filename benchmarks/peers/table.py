"""The cached figures as Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from illama_deploy.environment import describe_environment
from illama_deploy.measure import Accuracy, Comparison, median_ratio, paired_drop

from . import CASES
from .case import IMAGES, Case
from .runtimes import RUNTIMES

INTRO = """
One trained iLLaMA-T (32 px, patch 4, 5.3 M parameters), one draw of {calibration} calibration images, one evaluation on
{images} CIFAR-10 test images, one machine; our rows are in bold. Settings not named are the tool's defaults.

- **drop**: top-1 points lost against the float checkpoint in torch, with a paired 95 % interval (each bound is
  one-sided). SQNR and agreement: logits and first guesses against the same.
- **time, peak**: of quantizing, import to file, in a process of its own; ours includes decoding the images, export and
  the proof of kernels, the peers get decoded images and the float ONNX file.
- **ratios**: median of paired rounds, the artifacts of a row taking turns in one process with the same threads, with a
  95 % interval. *to ours*: against our artifact of the same format in the same runtime; **above 1, ours is faster;
  below 1, the peer is**. *to float*: against the float network in the same runtime; below 1, quantizing pays. p50 is
  for orientation across runtimes only.
- Everything is wall clock on a shared machine; load averages stand at the end. Ratios stand that better than times do.
- ¹ From the ONNX file that the other rows start from, NNCF 3.4.0 with scale estimation gives 10.00 % (chance). With AWQ
  alone it does not, nor when converted from torch (both checked on 100 images), so the row takes that route.
- W4A16 has 4-bit weights, W8A16 8-bit weights, both with float activations; `dynamic` finds activation ranges at run
  time.
"""


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def accuracy(work: Path, case: Case, limit: int) -> dict[str, Any]:
    """Top-1, drop, agreement and SQNR of a case whose logits are there."""
    labels = np.load(work / "inputs" / "labels.npy")[:limit]
    reference = np.load(work / "inputs" / "logits.npy")[:limit]
    logits = np.load(work / case.name / f"logits-{limit}.npy")
    one, base, comparison = Accuracy(5), Accuracy(5), Comparison()
    one.update(logits, labels)
    base.update(reference, labels)
    comparison.update(logits, reference)
    drop = paired_drop(base.correct, one.correct)
    return {**one.to_dict(), **comparison.to_dict(), "drop": drop, "images": len(labels)}


def choose(work: Path, limit: int) -> tuple[list[Case], dict[str, str]]:
    """Cases that get a row, and for the winner of a family how the others did."""
    rows: list[Case] = []
    notes: dict[str, str] = {}
    for family in dict.fromkeys(case.family or case.name for case in CASES.values()):
        members = [case for case in CASES.values() if (case.family or case.name) == family]
        done = [case for case in members if (work / case.name / f"logits-{limit}.npy").is_file()]
        if not done:
            rows += members
            continue
        figures = {case.name: accuracy(work, case, limit) for case in done}
        done.sort(key=lambda c: (-figures[c.name]["top1"], -figures[c.name]["logit_sqnr_db"]))
        rows.append(done[0])
        others = [f"{c.method.rsplit(', ', 1)[-1]} {figures[c.name]['top1']:.2f}" for c in done[1:]]
        others += [f"{c.method.rsplit(', ', 1)[-1]} failed" for c in members if c not in done]
        if others:
            notes[done[0].name] = f" (best of {len(members)}: {', '.join(others)})"
    return rows, notes


def partner(rows: Sequence[Case], work: Path, case: Case, ours: bool) -> Case | None:
    """The case that `case` is timed against, where there is one: ours of its format, or its runtime's float."""
    for other in rows:
        fits = other.ours and other.format == case.format if ours else not other.ours and other.format == "float32"
        if fits and other.runtime == case.runtime and other != case and (work / other.name / "made.json").is_file():
            return other
    return None


def render(work: Path, limit: int, threads: Sequence[int], batches: Sequence[int], command: str) -> str:
    rows, notes = choose(work, limit)
    environment = describe_environment()
    made = {case.name: read_json(work / case.name / "made.json") for case in rows}
    versions = {k: v for m in made.values() for k, v in m.get("versions", {}).items()} | {
        k: v for k, v in environment["versions"].items() if v
    }
    images = min(limit, len(np.load(work / "inputs" / "labels.npy", mmap_mode="r")))
    lines = [
        "# Against other quantizers\n",
        f"{date.today()}, {environment['cpu']}, {environment['cores']} cores ({environment['instruction sets']}), "
        f"{environment['system']}, Python {environment['python']}; "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".\n",
        f"    {command}",
        INTRO.format(calibration=IMAGES, images=f"{images:,}"),
        "## Accuracy, size, cost of quantizing\n",
        "| tool | method | format | runtime | MB | top-1 % | drop | SQNR dB | agreement % | time s | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    failures = []
    for case in rows:
        evaluated = (work / case.name / f"logits-{limit}.npy").is_file()
        errors = [file.read_text(encoding="utf-8") for file in (work / case.name).glob("error-*.txt")]
        for error in errors or ([] if evaluated else ["not reached yet: the same command goes on from here"]):
            failures.append(f"| {case.tool} | {case.method} | {case.format} | {error} |")
        if not evaluated:
            continue
        m, a = made[case.name], accuracy(work, case, limit)
        tool = f"{case.tool} {next(iter(m['versions'].values()), '')}"
        lines.append(
            f"| {tool} | {case.method}{notes.get(case.name, '')} | {case.format} | {_runtime(work, case)} "
            f"| {m['bytes'] / 1e6:.2f} | {a['top1']:.2f} | {a['drop'].value:+.2f} ({a['drop'].low:+.2f} to "
            f"{a['drop'].high:+.2f}) | {a['logit_sqnr_db']:.1f} | {a['agreement']:.2f} | {m['seconds']:.0f} "
            f"| {m['peak_mb']:.0f} |"
        )
    for count in threads:
        plural = "threads" if count > 1 else "thread"
        heads = [f"batch {b}: {what}" for b in batches for what in ("p50 ms", "to ours", "to float")]
        lines += ["", f"## Latency, {count} {plural}\n"]
        lines += [f"| tool | method | format | runtime | {' | '.join(heads)} |", "| --- " * (4 + len(heads)) + "|"]
        for case in rows:
            if (times := _times(work, case, count)) is not None:
                cells = [cell for batch in batches for cell in _cells(times, rows, work, case, batch)]
                lines.append(
                    f"| {case.tool} | {case.method} | {case.format} | {_runtime(work, case)} | {' | '.join(cells)} |"
                )
    if failures:
        lines += ["", "## Not run\n", "| tool | method | format | reason |", "| --- | --- | --- | --- |", *failures]
    loads = [float(t["load"]) for c in rows for n in threads if (t := _times(work, c, n)) is not None]
    if loads:
        lines += ["", f"Load average before each timing: median {np.median(loads):.1f}, at most {max(loads):.1f}, on "
                  f"{os.cpu_count()} cores."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _runtime(work: Path, case: Case) -> str:
    hint = work / case.name / "hint.txt"
    return RUNTIMES[case.runtime][0] + (f", {hint.read_text().strip()} hint" if hint.is_file() else "")


def _times(work: Path, case: Case, threads: int) -> dict[str, np.ndarray] | None:
    path = work / case.name / f"times-{threads}.npz"
    return dict(np.load(path)) if path.is_file() else None


def _cells(times: dict[str, np.ndarray], rows: Sequence[Case], work: Path, case: Case, batch: int) -> list[str]:
    own = times[f"{batch}/{case.name}"]
    cells = [f"{1e3 * np.median(own):.2f}"]
    for ours in (True, False):
        other = partner(rows, work, case, ours)
        if case.ours and ours:
            cells.append("ours")
        elif other is None or f"{batch}/{other.name}" not in times:
            cells.append("–")
        else:
            ratio = median_ratio(own, times[f"{batch}/{other.name}"])
            cells.append(f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})")
    return cells
