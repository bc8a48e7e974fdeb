"""A check held against a report of earlier: has anything become worse since?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from ...measure import Interval, quotient
from ...report import Gate
from ...tasks import task_of

__all__ = ["compare_with_stored"]


def compare_with_stored(
    artifacts: Sequence[dict[str, Any]],
    data: dict[str, Any],
    environment: dict[str, Any],
    stored: dict[str, Any],
    *,
    batch: Sequence[int],
    max_drop: float,
    min_effect: float,
    confidence: float,
) -> Iterator[Gate]:
    """Gates of every candidate against the one of the same name and target in a stored report.

    Accuracy is compared image by image, on any machine, where the images are the same. Latency is compared as the
    ratio to the baseline now / the ratio then, which a machine's mood does not touch; only on the same hardware, and
    only where the baseline is the same file and at the same batch size and threads.

    Args:
        artifacts: of the new report, as in `report.json`.
        data, environment: of the new report.
        stored: content of the stored one.
        max_drop: limit on the drop since then, in points.
        min_effect: limit on the growth of the latency ratio, as a share.
    """
    candidates = {_key(a): a for a in stored["artifacts"] if a["role"] == "candidate"}
    task = task_of({"data": data})
    here, there = environment["fingerprint"], stored["environment"]["fingerprint"]
    elsewhere = None
    if here != there:
        cpu = stored["environment"]["cpu"]
        elsewhere = f"the stored report is from other hardware ({cpu}, {there}; here {here})"
    for artifact in (a for a in artifacts if a["role"] == "candidate"):
        name, then = artifact["info"]["name"], candidates.get(_key(artifact))
        problem = artifact.get("not_measured")
        if problem is None and then is None:
            problem = "the stored report has no such candidate"
        elif problem is None and then is not None and then["accuracy"] is None:
            problem = f"it was not measured then: {then.get('not_measured')}"
        if then is None or problem is not None:
            gate = Gate.unmeasured(task.change_gate, name, "", max_drop, str(problem))
        elif task_of(stored) is not task:
            gate = Gate.unmeasured(task.change_gate, name, "", max_drop, "it had another task then")
        elif data["sha256"] != stored["data"]["sha256"] or data["images"] != stored["data"]["images"]:
            gate = Gate.unmeasured(task.change_gate, name, "", max_drop, "it was measured on other images then")
        else:
            try:
                drop = task.drop_since(then["accuracy"], artifact["accuracy"], confidence)
                gate = Gate.judge(task.change_gate, name, "", max_drop, drop)
            except ValueError as error:
                gate = Gate.unmeasured(task.change_gate, name, "", max_drop, f"the stored report's images: {error}")
        yield gate.versus(stored["created"])
        if "not_timed" in artifact:
            continue
        for size, latency in zip_longest(batch, artifact["latency"]):
            why = problem or elsewhere
            ratio = None
            if why is None and then is not None and latency is not None:
                ratio, why = _ratio_of_ratios(latency, artifacts, then, stored)
            gate = (
                Gate.unmeasured("latency_change", name, f"batch {size}", 1 + min_effect, str(why))
                if ratio is None
                else Gate.judge("latency_change", name, f"batch {size}", 1 + min_effect, ratio)
            )
            yield gate.versus(stored["created"])


def _key(artifact: dict[str, Any]) -> tuple[str, str]:
    return artifact["info"]["name"], artifact["target"]


def _ratio_of_ratios(
    now: dict[str, Any], artifacts: Sequence[dict[str, Any]], then: dict[str, Any], stored: dict[str, Any]
) -> tuple[Interval | None, str | None]:
    """The ratio now / then with its interval, or why they cannot be compared."""
    same = (latency for latency in then["latency"] if latency["batch"] == now["batch"])
    if (before := next(same, None)) is None:
        return None, "the stored report has no such batch size"
    if now["threads"] != before["threads"]:
        return None, f"it was measured on {before['threads']} threads, not {now['threads']}"
    if now["ratio"] is None or before["ratio"] is None:
        return None, "there is no ratio to a baseline"
    baselines = [_sha256(artifacts, now["ratio_to"]), _sha256(stored["artifacts"], before["ratio_to"])]
    if baselines[0] != baselines[1]:
        return None, "the baseline is another file than then, or is now the faster of several"
    figures = [Interval(x["ratio"], x["ratio_low"], x["ratio_high"]) for x in (now, before)]
    return quotient(*figures), None


def _sha256(artifacts: Sequence[dict[str, Any]], name: str) -> tuple[str, str] | None:
    found = (a["info"] for a in artifacts if a["info"]["name"] == name)
    return next(((info["sha256"], info["format"]) for info in found), None)
