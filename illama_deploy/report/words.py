"""What the figures mean, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["headline", "pay_notes", "steadiness_notes"]

#: Above these, a measurement deserves a word: coefficient of variation, share of outliers, change over the rounds.
UNSTEADY_CV, MANY_OUTLIERS, DRIFTED = 0.25, 0.05, 0.1


def headline(report: dict[str, Any]) -> str:
    """Gates by verdict, as in `5 gates: 3 pass, 2 inconclusive`."""
    verdicts = [gate["verdict"] for gate in report["gates"]]
    counts = [f"{verdicts.count(v)} {v}" for v in ("pass", "fail", "inconclusive") if v in verdicts]
    return f"{len(verdicts)} gate{'s' if len(verdicts) > 1 else ''}: {', '.join(counts)}"


def pay_notes(artifacts: Sequence[dict[str, Any]], min_effect: float) -> list[str]:
    """Whether each candidate pays against the fastest baseline of its target.

    Args:
        min_effect: a gain below this share is none.
    """
    by_name = {artifact["info"]["name"]: artifact["info"] for artifact in artifacts if artifact["role"] == "baseline"}
    notes = []
    for artifact in artifacts:
        info = artifact["info"]
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


def steadiness_notes(artifacts: Sequence[dict[str, Any]]) -> list[str]:
    """Measurements that something disturbed, and artefacts whose logits are no numbers."""
    notes = []
    for artifact in artifacts:
        name, accuracy = artifact["info"]["name"], artifact["accuracy"]
        if accuracy is not None and accuracy.get("not_finite"):
            notes.append(
                f"{name}: logits are NaN or infinite on {accuracy['not_finite']} of {accuracy['images']} images; "
                "they count as wrong."
            )
        for latency in artifact["latency"]:
            where = f"{name}, batch {latency['batch']}"
            if abs(latency["drift"] - 1) > DRIFTED:
                change = f"{100 * abs(latency['drift'] - 1):.0f} % {'slower' if latency['drift'] > 1 else 'faster'}"
                notes.append(f"{where}: the last quarter of the rounds was {change} than the first.")
            if latency["cv"] > UNSTEADY_CV or latency["outliers"] > MANY_OUTLIERS * latency["rounds"]:
                notes.append(
                    f"{where}: times vary (coefficient of variation {100 * latency['cv']:.0f} %, "
                    f"{latency['outliers']} outliers in {latency['rounds']} rounds); paired ratios are less touched."
                )
    return notes
