"""Accuracy drop and latency ratio of candidates against baselines, as gates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..console import as_text
from ..environment import describe_environment
from ..errors import UsageError, parameter
from ..hashing import canonical_json, sha256_file
from ..measure import (
    Conditions,
    Interval,
    Latency,
    condition_notes,
    median_ratio,
)
from ..options import step
from ..options.steps import CheckOptions
from ..quant.artifact import MANIFEST
from ..report import (
    RENDERERS,
    Gate,
    Report,
    Verdict,
    append_summary,
    chance_notes,
    finite_notes,
    is_at_chance,
    pay_notes,
    read_report,
    steadiness_notes,
)
from ..runtime import Runtime, Unavailable
from ..tasks import TASKS, AccuracyFigures, ComparisonFigures, Task, find_task
from ..workspace import Workspace
from .bench import measure_batches
from .evaluate import class_names, open_evaluation_data
from .shared.inputs import paths_of, refuse_stale
from .shared.participants import Group, Member, open_participants
from .shared.properties import Properties, require_known
from .shared.sites import SENSITIVITY_IMAGES, describe_sites
from .shared.stored import compare_with_stored

__all__ = ["check"]

#: Images that predictions are drawn over, where pixels are classified.
PICTURES = 4
#: Why there is no figure of accuracy of a task that needs no labels for the others.
UNLABELLED = "the images have no labels"
#: What a report says of its data where nothing could be measured.
NOTHING: dict[str, Any] = {
    "task": next(iter(TASKS)),
    "spec": None,
    "split": None,
    "images": 0,
    "skipped": [],
    "sha256": None,
}


@step(CheckOptions)
def check(options: CheckOptions) -> Report:
    """Measure candidates and baselines on the same images and in the same rounds, and judge.

    Accuracy is compared with the first baseline (float32 where there is one), latency with the fastest baseline of the
    same target, half precision included. A candidate that cannot run on this machine, such as an engine without its
    GPU, is not measured and so inconclusive; the others are measured all the same. Logits that are NaN or infinite
    fail, the baseline's too, and a baseline that is no better than chance never lets a check pass: a drop from it says
    nothing. Where `GITHUB_STEP_SUMMARY` names a file, the report is appended to it.

    Raises:
        DeployError: bad input, or a named baseline that cannot run on this machine; nothing is written.
    """
    _require_limits(options)
    require_known(options.properties)
    workspace = options.output.workspace or Workspace()
    refuse_stale(*options.candidates, options.baseline)
    stored = None if options.against is None else read_report(options.against)
    properties = options.properties
    named = (options.baseline, options.against, options.images.data, properties.cue_conflict, properties.categories)
    inputs = paths_of(*named, *options.candidates)
    out, place = options.output.out, options.output.out or workspace.report
    with workspace.output(out, workspace.report, force=options.output.force, inputs=inputs) as directory:
        opening = {"threads": options.timing.threads, **options.geometry.flat(), **options.running.flat()}
        groups = open_participants(
            options.candidates, options.baseline, options.targets, workspace, opening, options.output.say
        )
        measured = _measure(groups, options)
        report = _report(measured, options, workspace, stored)
        content = report.to_dict()
        (directory / "report.json").write_text(canonical_json(content), encoding="utf-8")
        for renderer in RENDERERS.values():
            (directory / renderer.file).write_text(renderer.render(content), encoding="utf-8")
    workspace.record("check", place, format="report")
    append_summary(content)
    return report


def _require_limits(options: CheckOptions) -> None:
    """Refuse limits that nothing can be held to.

    Raises:
        UsageError: there are some.
    """
    max_drop, max_latency_ratio = options.max_drop, options.max_latency_ratio
    if not (math.isfinite(max_drop) and math.isfinite(max_latency_ratio) and max_latency_ratio > 0):
        raise UsageError(
            f"The limits {max_drop} and {max_latency_ratio} cannot be held to.",
            hint=f"Use figures such as {parameter(max_drop=0.5, max_latency_ratio=1.0)}.",
        )
    if not 0 <= options.min_effect < 1:
        raise UsageError(
            f"The smallest effect {options.min_effect} is no share.",
            hint=f"Use {parameter(min_effect=0.02)} for 2 percent.",
        )
    if options.min_top1 is not None and not 0 <= options.min_top1 <= 100:
        raise UsageError(
            f"{options.min_top1} is no top-1 in percent.", hint=f"Use a figure such as {parameter(min_top1=75)}."
        )


@dataclass
class _Measured:
    """All that was measured.

    Attributes:
        entries: one for each artifact, as in `report.json`, the baselines first.
        data: what they were measured on.
        data_notes: what was left out, altered or guessed of it.
        conditions: of the machine while it was timed.
        pictures: predictions, drawn over images.
    """

    task: Task
    entries: list[dict[str, Any]]
    data: dict[str, Any]
    data_notes: Sequence[str]
    conditions: dict[str, Any]
    pictures: list[dict[str, str]]


def _measure(groups: Sequence[Group], options: CheckOptions) -> _Measured:
    """Time all members of the groups, then measure them on the same images."""
    baselines, members = _members(groups)
    runtimes = [member.artifact for member, _ in members if isinstance(member.artifact, Runtime)]
    if not runtimes:
        results = _Results(find_task(NOTHING["task"]), options.timing.confidence)
        conditions = _time(groups, options, results)
        entries = results.entries(members, baselines)
        return _Measured(find_task(NOTHING["task"]), entries, dict(NOTHING), [], conditions, [])
    loader = open_evaluation_data(runtimes, options.images, None, options.preparation)
    used = runtimes[0].preprocessing.override(**options.preparation.overrides())
    confidence, properties = options.timing.confidence, options.properties
    wanted = [Properties(runtime, loader, used, properties, confidence) for runtime in runtimes]
    task = find_task(runtimes[0].task)
    results = _Results(task, confidence, names=class_names(runtimes[0], loader))
    conditions = _time(groups, options, results)
    digest = hashlib.sha256()
    candidate = (m.artifact for m, _ in members[baselines:] if isinstance(m.artifact, Runtime))
    gallery = _Gallery(task, results.names, len(loader), [runtimes[0], *islice(candidate, 1)])

    def on_sample(sample: Any, outputs: list[Any]) -> None:
        for one, output in zip(wanted, outputs, strict=True):
            one.update(sample, output)
        gallery.update(sample, dict(zip(map(id, runtimes), outputs, strict=True)))

    pairs = zip(*task.measure(runtimes, loader, on_sample, binning=wanted[0].binning, digest=digest), strict=True)
    results.accuracy |= {id(runtime): pair for runtime, pair in zip(runtimes, pairs, strict=True)}
    for one in wanted:
        results.properties[id(one.runtime)] = one.measure(results.accuracy[id(one.runtime)][0])
    if baselines and isinstance(members[0][0].artifact, Runtime):
        results.reference = results.accuracy[id(runtimes[0])][0]
    data = {
        "task": task.name,
        "spec": loader.source.spec,
        "split": loader.source.split,
        "images": results.accuracy[id(runtimes[0])][0].images,
        "skipped": loader.skipped,
        "sha256": digest.hexdigest(),
    }
    entries = results.entries(members, baselines)
    return _Measured(task, entries, data, loader.notes, conditions, gallery.pictures)


def _time(groups: Sequence[Group], options: CheckOptions, results: _Results) -> dict[str, Any]:
    """Time each group in rounds of its own; return the machine's conditions meanwhile."""
    conditions, timing = Conditions(), options.timing
    for group in groups:
        timed = group.timed()
        rows = measure_batches(
            [member.artifact for member in timed],
            timing.batch,
            seconds=timing.seconds,
            rounds=timing.rounds,
            confidence=timing.confidence,
            on_round=conditions.sample,
        )
        results.latency |= {id(member): row for member, row in zip(timed, rows, strict=True)}
    return conditions.to_dict()


def _report(measured: _Measured, options: CheckOptions, workspace: Workspace, stored: dict[str, Any] | None) -> Report:
    """Judge what was measured."""
    entries, task, timing = measured.entries, measured.task, options.timing
    environment = describe_environment()
    gates = list(_sound(entries, task, options.min_top1))
    first = entries[0]["info"]["name"]
    for entry in entries:
        if entry["role"] == "candidate":
            gates += _judge(entry, task, first, timing.batch, options.max_drop, options.max_latency_ratio)
    if stored is not None:
        gates += compare_with_stored(
            entries,
            measured.data,
            environment,
            stored,
            batch=timing.batch,
            max_drop=options.max_drop,
            min_effect=options.min_effect,
            confidence=timing.confidence,
        )
    limits = {name: getattr(options, name) for name in ("max_drop", "max_latency_ratio", "min_effect", "min_top1")}
    settings = {
        **{name: value for name, value in limits.items() if value is not None},
        "confidence": timing.confidence,
        "threads": timing.threads,
        "batch": list(timing.batch),
        "seconds": timing.seconds,
        "rounds": timing.rounds,
    }
    images = SENSITIVITY_IMAGES if options.sensitivity else 0
    return Report(
        gates=gates,
        artifacts=entries,
        notes=[
            *chance_notes(entries, task),
            *measured.data_notes,
            *pay_notes(entries, options.min_effect),
            *finite_notes(entries, task),
            *steadiness_notes(entries),
            *condition_notes(measured.conditions),
        ],
        data=measured.data,
        settings=settings,
        environment=environment,
        conditions=measured.conditions,
        quantized=_sites(entries, options.candidates, workspace, images),
        stored=None if stored is None else _origin(stored, Path(str(options.against))),
        pictures=measured.pictures,
        command=options.command,
    )


@dataclass
class _Results:
    """What was measured of each member of the groups, by identity.

    Attributes:
        names: of the classes.
        reference: accuracy of the first baseline, or None where no baseline ran.
    """

    task: Task
    confidence: float
    latency: dict[int, Sequence[Latency]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    accuracy: dict[int, tuple[AccuracyFigures, ComparisonFigures]] = field(default_factory=dict)
    properties: dict[int, dict[str, Any]] = field(default_factory=dict)
    reference: AccuracyFigures | None = None

    def entries(self, members: Sequence[tuple[Member, Group]], baselines: int) -> list[dict[str, Any]]:
        """One for each member, of which the first are baselines."""
        return [
            self.entry(member, "baseline" if number < baselines else "candidate", group)
            for number, (member, group) in enumerate(members)
        ]

    def entry(self, member: Member, role: str, group: Group) -> dict[str, Any]:
        """One artifact, as in `report.json`; names in it are text, whatever bytes a path has."""
        entry: dict[str, Any] = as_text(self._entry(member, role, group))
        return entry

    def _entry(self, member: Member, role: str, group: Group) -> dict[str, Any]:
        artifact = member.artifact
        entry: dict[str, Any] = {"role": role, "target": member.target, "info": artifact.info.to_dict()}
        entry |= {"accuracy": None, "comparison": None, "latency": [], "proof": member.proof}
        if role == "candidate" and (why := artifact.info.simulated) is not None:
            entry["not_timed"] = why
        if isinstance(artifact, Unavailable):
            return entry | {"not_measured": artifact.reason}
        accuracy, comparison = self.accuracy[id(artifact)]
        entry["accuracy"] = accuracy.to_dict() | ({} if accuracy.chance is None else {"chance": accuracy.chance})
        entry["accuracy"]["intervals"] = _bounds(accuracy.intervals(self.confidence))
        entry["accuracy"] = self.task.named(entry["accuracy"], self.names) | self.task.kept(accuracy)
        if self.properties[id(artifact)]:
            entry["properties"] = self.properties[id(artifact)]
        if self.reference is not None:
            intervals = comparison.intervals(self.confidence)
            if (drop := self.task.drop_from(self.reference, accuracy, self.confidence)) is not None:
                intervals = {self.task.drop: drop, **intervals}
            entry["comparison"] = {
                self.task.drop: None,
                "logit_sqnr_db": None,
                **{name: interval.value for name, interval in intervals.items()},
                "intervals": _bounds(intervals),
            }
        entry["latency"] = [
            self._timed(
                latency,
                [(base, self.latency[id(base)][i]) for base in group.baselines if self.latency.get(id(base))],
            )
            for i, latency in enumerate(self.latency.get(id(member), ()))
        ]
        return entry

    def _timed(self, latency: Latency, baselines: list[tuple[Member, Latency]]) -> dict[str, Any]:
        """A latency with its ratio to the fastest baseline."""
        if not baselines:
            return latency.to_dict() | dict.fromkeys(("ratio", "ratio_low", "ratio_high", "ratio_to"))
        fastest, base = min(baselines, key=lambda pair: float(np.median(pair[1].seconds)))
        ratio = median_ratio(latency.seconds, base.seconds, self.confidence)
        return latency.to_dict() | {
            "ratio": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratio_to": fastest.artifact.info.name,
        }


def _members(groups: Sequence[Group]) -> tuple[int, list[tuple[Member, Group]]]:
    """The number of baselines, and all members: the baselines first, of them those that run, of them float32."""
    baselines = [(member, group) for group in groups for member in group.baselines]
    baselines.sort(
        key=lambda pair: (isinstance(pair[0].artifact, Unavailable), pair[0].artifact.info.format != "float32")
    )
    return len(baselines), baselines + [(member, group) for group in groups for member in group.candidates]


def _bounds(intervals: dict[str, Interval]) -> dict[str, list[float]]:
    return {name: [interval.low, interval.high] for name, interval in intervals.items()}


def _sound(entries: Sequence[dict[str, Any]], task: Task, least: float | None) -> Iterator[Gate]:
    """What a drop cannot tell: whether logits are numbers, the baseline knows anything, and candidates know enough."""
    for entry in entries:
        if entry["accuracy"] is not None and (count := entry["accuracy"].get("not_finite")):
            yield Gate.judge("not_finite", entry["info"]["name"], task.counted, 0, Interval(count, count, count))
    first = entries[0]
    if first["role"] == "baseline" and is_at_chance(first["accuracy"], task):
        accuracy, figure = first["accuracy"], task.figure
        interval = Interval(accuracy[figure], *accuracy["intervals"][figure])
        verdict = Verdict.FAIL if interval.high < accuracy["chance"] else Verdict.INCONCLUSIVE
        yield Gate("chance", first["info"]["name"], "baseline", accuracy["chance"], *interval, verdict)
    for entry in entries if least is not None else ():
        if entry["role"] == "candidate":
            assert least is not None
            name, accuracy = entry["info"]["name"], entry["accuracy"]
            if accuracy is None or accuracy[task.figure] is None:
                yield Gate.unmeasured(task.least_gate, name, "", least, entry.get("not_measured", UNLABELLED))
            else:
                interval = Interval(accuracy[task.figure], *accuracy["intervals"][task.figure])
                yield Gate.judge(task.least_gate, name, "", least, interval)


def _judge(
    entry: dict[str, Any], task: Task, reference: str, batch: Sequence[int], max_drop: float, max_ratio: float
) -> Iterator[Gate]:
    """The gates of one candidate."""
    name, comparison = entry["info"]["name"], entry["comparison"]
    reason = entry.get("not_measured")
    if comparison is None:
        why = reason or "no baseline can run here"
        yield Gate.unmeasured(task.drop_gate, name, "", max_drop, why)
    elif comparison[task.drop] is None:
        yield Gate.unmeasured(task.drop_gate, name, "", max_drop, UNLABELLED)
    else:
        drop = Interval(comparison[task.drop], *comparison["intervals"][task.drop])
        yield Gate.judge(task.drop_gate, name, "", max_drop, drop).versus(reference)
    if "not_timed" in entry:  # its speed is nobody's
        return
    for size, latency in zip_longest(batch, entry["latency"]):
        if latency is None or latency["ratio"] is None:
            why = reason or "no baseline of the same target can run here"
            yield Gate.unmeasured("latency_ratio", name, f"batch {size}", max_ratio, why)
        else:
            ratio = Interval(latency["ratio"], latency["ratio_low"], latency["ratio_high"])
            yield Gate.judge("latency_ratio", name, f"batch {size}", max_ratio, ratio).versus(latency["ratio_to"])


class _Gallery:
    """Labels and predictions drawn over a few images, evenly spread.

    Args:
        images: how many there are.
        shown: the artifacts whose predictions are drawn.
    """

    def __init__(self, task: Task, names: Sequence[str], images: int, shown: Sequence[Runtime]) -> None:
        self.task, self.names, self.shown = task, names, shown
        self.wanted = {round(i * (images - 1) / max(PICTURES - 1, 1)) for i in range(PICTURES)}
        self.seen = 0
        self.pictures: list[dict[str, str]] = []

    def update(self, sample: Any, outputs: Mapping[int, Any]) -> None:
        """Take a sample, and what each artifact gives for it, by identity."""
        if self.seen in self.wanted:
            shown = {artifact.info.name: outputs[id(artifact)] for artifact in self.shown}
            self.pictures += self.task.small_pictures(sample, shown, self.names)
        self.seen += 1


def _sites(
    entries: Sequence[dict[str, Any]], candidates: Sequence[str | Path | Runtime], workspace: Workspace, images: int
) -> list[dict[str, Any]]:
    """The quantized checkpoints that candidates came from, where they lie: named, in the workspace, or beside."""
    wanted = {entry["info"]["manifest_sha256"] for entry in entries if entry["role"] == "candidate"} - {None}
    named = [Path(candidate) for candidate in candidates if isinstance(candidate, str | Path)]
    beside = [path.parent / workspace.quantized.name for path in named]
    places = [*named, workspace.quantized, *beside, *(path.parent for path in beside)]
    found: dict[str, dict[str, Any]] = {}
    for place in places:
        if (place / MANIFEST).is_file() and (own := sha256_file(place / MANIFEST)) in wanted - found.keys():
            found[own] = describe_sites(place, images)
    return list(found.values())


def _origin(stored: dict[str, Any], path: Path) -> dict[str, str]:
    return {
        "path": str(path),
        "content_sha256": stored["content_sha256"],
        "created": stored["created"],
        "fingerprint": stored["environment"]["fingerprint"],
    }
