"""Accuracy drop and latency ratio of candidates against a baseline, as gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import new_directory
from ..environment import describe_environment
from ..errors import UsageError
from ..hashing import canonical_json
from ..measure import measure_accuracy, paired_drop
from ..progress import track
from ..report import Gate, Report, render_markdown
from ..runtime import Runtime, Unavailable, open_artifact, open_if_available
from ..workspace import Workspace
from .bench import measure_batches
from .evaluate import open_evaluation_data

__all__ = ["check"]


def check(
    candidates: Sequence[str | Path | Runtime] = (),
    *,
    baseline: str | Path | Runtime | None = None,
    data: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    max_drop: float = 0.5,
    max_latency_ratio: float = 1.0,
    batch: Sequence[int] = (1, 8),
    threads: int = 1,
    seconds: float = 5.0,
    rounds: int | None = None,
    confidence: float = 0.95,
    preprocessing: dict[str, Any] | None = None,
    heads: int | None = None,
    cuda_graph: bool = False,
    backend: str | None = None,
    precision: str = "auto",
    skip_broken: bool = False,
    out: str | Path | None = None,
    force: bool = False,
) -> Report:
    """Measure candidates and baseline on the same images and in the same rounds, and judge.

    A candidate that cannot run on this machine, such as an engine without its GPU, is not measured and so
    inconclusive; the others are measured all the same.

    Args:
        candidates: artefacts; the workspace's exported model where none is given.
        baseline: artefact; the exported float model where not given.
        data, split, limit: images for accuracy, as in `evaluate`.
        max_drop: limit on the drop in top-1, in points.
        max_latency_ratio: limit on candidate / baseline latency, at each batch size.
        batch, threads, seconds, rounds: as in `bench`.
        confidence: of each bound of each interval.
        cuda_graph, backend, precision: as in `open_artifact`.
        out: directory for `report.json` and `report.md`; the workspace's where not given.
        force: replace a directory that exists.

    Raises:
        DeployError: bad input, or a baseline that cannot run on this machine; nothing is written.
    """
    if not (math.isfinite(max_drop) and math.isfinite(max_latency_ratio) and max_latency_ratio > 0):
        raise UsageError(
            f"The limits {max_drop} and {max_latency_ratio} cannot be held to.",
            hint="Use figures such as --max-drop 0.5 --max-latency-ratio 1.0.",
        )
    workspace = Workspace()
    named = list(candidates) or [workspace.need(workspace.onnx / "model.onnx", "export --onnx")]
    if baseline is None:
        baseline = workspace.need(workspace.onnx / "model.float.onnx", "export --onnx --float")
    out = Path(out) if out is not None else workspace.report
    with new_directory(
        out, force=force, inputs=[a for a in (baseline, *named) if isinstance(a, str | Path)]
    ) as directory:
        options: dict[str, Any] = {
            "threads": threads,
            "heads": heads,
            "cuda_graph": cuda_graph,
            "backend": backend,
            "precision": precision,
        }
        first = baseline if isinstance(baseline, Runtime) else open_artifact(baseline, **options)
        artifacts: list[Runtime | Unavailable] = [
            first,
            *(a if isinstance(a, Runtime) else open_if_available(a, **options) for a in named),
        ]
        runtimes = [artifact for artifact in artifacts if isinstance(artifact, Runtime)]
        loader = open_evaluation_data(
            runtimes, data, split, limit, None, preprocessing=preprocessing, skip_broken=skip_broken
        )
        latencies = measure_batches(artifacts, batch, seconds=seconds, rounds=rounds, confidence=confidence)
        accuracies, comparisons = measure_accuracy(runtimes, track(loader, "Evaluating", len(loader)))

        gates: list[Gate] = []
        entries: list[dict[str, Any]] = []
        measured = iter(zip(accuracies, comparisons, strict=True))
        for artifact, row in zip(artifacts, latencies, strict=True):
            name = artifact.info.name
            if isinstance(artifact, Unavailable):
                reason = artifact.reason
                gates.append(Gate.unmeasured("accuracy_drop", name, "", max_drop, reason))
                gates += [
                    Gate.unmeasured("latency_ratio", name, f"batch {size}", max_latency_ratio, reason) for size in batch
                ]
                entries.append(
                    {"info": artifact.info.to_dict(), "accuracy": None, "comparison": None, "latency": []}
                    | {"not_measured": reason}
                )
                continue
            accuracy, comparison = next(measured)
            if entries:  # the first is the baseline
                drop = paired_drop(accuracies[0].correct, accuracy.correct, confidence)
                gates.append(Gate.judge("accuracy_drop", name, "", max_drop, drop))
                gates += [
                    Gate.judge("latency_ratio", name, f"batch {x.batch}", max_latency_ratio, x.ratio) for x in row
                ]
            entries.append(
                {
                    "info": artifact.info.to_dict(),
                    "accuracy": accuracy.to_dict(),
                    "comparison": comparison.to_dict(),
                    "latency": [latency.to_dict() for latency in row],
                }
            )
        report = Report(
            gates=gates,
            artifacts=entries,
            data={
                "spec": loader.source.spec,
                "split": loader.source.split,
                "images": accuracies[0].images,
                "skipped": loader.skipped,
            },
            settings={
                "max_drop": max_drop,
                "max_latency_ratio": max_latency_ratio,
                "confidence": confidence,
                "threads": threads,
                "batch": list(batch),
                "seconds": seconds,
                "rounds": rounds,
            },
            environment=describe_environment(),
        )
        content = report.to_dict()
        (directory / "report.json").write_text(canonical_json(content), encoding="utf-8")
        (directory / "report.md").write_text(render_markdown(content), encoding="utf-8")
    return report
