"""What the figures mean, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tasks import Task

__all__ = ["chance_notes", "finite_notes", "headline", "is_at_chance", "pay_notes", "steadiness_notes"]

#: Above these, a measurement deserves a word: coefficient of variation, share of outliers, change over the rounds.
UNSTEADY_CV, MANY_OUTLIERS, DRIFTED = 0.25, 0.05, 0.1


def headline(report: dict[str, Any]) -> str:
    """Gates by verdict, as in `5 gates: 3 pass, 2 inconclusive`."""
    verdicts = [gate["verdict"] for gate in report["gates"]]
    counts = [f"{verdicts.count(v)} {v}" for v in ("pass", "fail", "inconclusive") if v in verdicts]
    return f"{len(verdicts)} gate{'s' if len(verdicts) > 1 else ''}: {', '.join(counts)}"


def is_at_chance(accuracy: dict[str, Any] | None, task: Task) -> bool:
    """Whether an artifact's figures are no better than its own guesses, dealt out among the images, would have."""
    if accuracy is None or "chance" not in accuracy:
        return False
    low = accuracy["intervals"][task.figure][0]
    return bool(low <= accuracy["chance"])


def chance_notes(artifacts: Sequence[dict[str, Any]], task: Task) -> list[str]:
    """Which artifacts know nothing of these images."""
    return [
        f"{artifact['info']['name']} is no better than chance here: {task.title} "
        f"{artifact['accuracy'][task.figure]:.2f} %, and {artifact['accuracy']['chance']:.2f} % if the same guesses "
        "were dealt out among the images. Look at the order of the classes, the preprocessing and the data, or take "
        "more images."
        for artifact in artifacts
        if is_at_chance(artifact["accuracy"], task)
    ]


def pay_notes(artifacts: Sequence[dict[str, Any]], min_effect: float) -> list[str]:
    """Whether each candidate pays against the fastest baseline of its target; of one that only simulates, that it was
    not timed.

    Args:
        min_effect: a gain below this share is none.
    """
    by_name = {artifact["info"]["name"]: artifact["info"] for artifact in artifacts if artifact["role"] == "baseline"}
    notes = []
    for artifact in artifacts:
        info = artifact["info"]
        if "not_timed" in artifact:
            notes.append(f"{info['name']} was not timed: {artifact['not_timed']}.")
        if artifact["role"] == "baseline" or not artifact["latency"]:
            continue
        told: dict[str, list[str]] = {}
        against = None
        for latency in artifact["latency"]:
            if latency["ratio"] is None:
                continue
            against = by_name[latency["ratio_to"]]
            told.setdefault(_outcome(latency, min_effect), []).append(
                f"{latency['ratio']:.2f} ({latency['ratio_low']:.2f}–{latency['ratio_high']:.2f}) of the time of "
                f"{against['format']} at batch {latency['batch']}"
            )
        subject = f"{info['format']} on {artifact['target']}"
        for outcome, figures in told.items():
            notes.append(f"{subject} {outcome}: {', '.join(figures)}.")
        if against is not None and info["size_bytes"] and against["size_bytes"]:
            share = 100 * info["size_bytes"] / against["size_bytes"]
            notes.append(f"{subject}: its file is {share:.0f} % of the baseline's.")
    return notes


def _outcome(latency: dict[str, Any], min_effect: float) -> str:
    if latency["ratio_high"] <= 1 - min_effect:
        return "pays in speed"
    if latency["ratio_low"] > 1:
        return "does not pay: it is slower"
    if latency["ratio_low"] >= 1 - min_effect:
        return "does not pay: it is no faster"
    return "may or may not pay (more rounds would tell)"


def finite_notes(artifacts: Sequence[dict[str, Any]], task: Task) -> list[str]:
    """Artifacts whose logits are no numbers."""
    return [
        f"{artifact['info']['name']}: logits are NaN or infinite on {task.not_finite(artifact['accuracy'])}; "
        "they count as wrong."
        for artifact in artifacts
        if artifact["accuracy"] is not None and artifact["accuracy"].get("not_finite")
    ]


def steadiness_notes(artifacts: Sequence[dict[str, Any]]) -> list[str]:
    """What disturbed the timings, by its worst case."""
    notes: list[str] = []
    timings = [
        (f"{artifact['info']['name']}, batch {latency['batch']}", latency)
        for artifact in artifacts
        for latency in artifact["latency"]
    ]
    drifted = [pair for pair in timings if abs(pair[1]["drift"] - 1) > DRIFTED]
    if drifted:
        where, worst = max(drifted, key=lambda pair: abs(pair[1]["drift"] - 1))
        change = f"{100 * abs(worst['drift'] - 1):.0f} % {'slower' if worst['drift'] > 1 else 'faster'}"
        notes.append(
            f"The machine's pace changed during {len(drifted)} of {len(timings)} timings; most for {where}: the last "
            f"quarter of the rounds was {change} than the first."
        )
    varied = [
        pair
        for pair in timings
        if pair[1]["cv"] > UNSTEADY_CV or pair[1]["outliers"] > MANY_OUTLIERS * pair[1]["rounds"]
    ]
    if varied:
        where, worst = max(varied, key=lambda pair: pair[1]["cv"])
        notes.append(
            f"Times vary in {len(varied)} of {len(timings)} timings; most for {where}: coefficient of variation "
            f"{100 * worst['cv']:.0f} %, {worst['outliers']} outliers in {worst['rounds']} rounds. Paired ratios are "
            "less touched."
        )
    return notes
