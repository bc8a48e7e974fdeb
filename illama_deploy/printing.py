"""What the command line says of a step's result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .console import say
from .properties import property_tables
from .quant import QuantizedArtifact
from .report import Report, print_report
from .report.rows import LATENCY_COLUMNS, latency_rows
from .report.terminal import print_table
from .steps.bench import Benchmark
from .steps.evaluate import Evaluation
from .steps.export import ExportResult
from .steps.shared.search import search_rows
from .steps.train import TrainResult
from .targets import ALL, TARGETS
from .targets.table import target_rows
from .workspace import Workspace


def _say_notes(notes: Sequence[str]) -> None:
    """What was left out, altered or guessed of the data."""
    for note in notes:
        say(f"data: {note}")


def _skipped(names: Sequence[str]) -> str:
    return (
        f", {len(names)} broken images left out: {', '.join(names[:3])}{'…' if len(names) > 3 else ''}" if names else ""
    )


def print_trained(result: TrainResult) -> None:
    """Held-out figures, and where everything is; one process of several says it."""
    if result.rank == 0:
        from .training import headline

        say(f"{headline(result.figures)} images")
        say(f"wrote {result.path} (log and curves in {result.directory})")


def print_quantized(artifact: QuantizedArtifact) -> None:
    """What was quantized from which images, how, and how well."""
    manifest = artifact.manifest
    if "search" in manifest:
        print_table(*search_rows(artifact.path))
    used = len(manifest["data"]["indices"]) - len(manifest["data"]["skipped"])
    say(
        f"{manifest['format']}: {len(manifest['sites'])} sites from {used} images of {manifest['data']['kind']}"
        + _skipped(manifest["data"]["skipped"])
    )
    _say_notes(manifest["data"]["notes"])
    made = manifest["recipe"]
    reconstruction = f"; {made['reconstruct']} steps of reconstruction for each block" if made["reconstruct"] else ""
    say(f"rewrites {', '.join(made['rewrites'])}; ranges {made['range']}; rounding {made['rounding']}{reconstruction}")
    say(f"logit SQNR {manifest['logit_sqnr_db']:.1f} dB on {manifest['sqnr_images']} of them")
    say(f"wrote {artifact.path}")


def print_exported(result: ExportResult, target: str) -> None:
    """What was written for a target, and what was proven of it."""
    if result.simulated:
        say(f"simulated: {TARGETS[target].runtime} has no kernel for this format; the file measures accuracy only")
    for base, how in result.spelled.items():
        say(f"{base} checkpoint, in {TARGETS[target].runtime} {how}")
    if result.rotations:
        sizes = ", ".join(str(size) for size in sorted(set(result.rotations.values())))
        say(f"{len(result.rotations)} online rotations, float GEMMs with blocks of {sizes}")
    if result.parity is not None:
        say(str(result.parity))
    if result.proof is not None:
        say(str(result.proof))
    if result.batches:
        say(f"ran at batches of {', '.join(map(str, result.batches))}, each image as alone")
    package, lowest = next(iter(result.runtimes.items()))
    say(f"loads in {package} from {lowest} on")
    for path in (result.model, result.float_model, *result.beside, *result.engines):
        if path is not None:
            say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")


def print_evaluation(result: Evaluation, name: object) -> None:
    """Figures, what was left out, and tables of properties."""
    figures = dict(result.figures)
    by_class = figures.pop("iou", {})
    for key, value in figures.items():
        shown = "–" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        say(f"{key:<14} {shown}")
    for label, iou in by_class.items():
        say(f"  IoU {label:<24} {'–' if iou is None else f'{iou:.2f}'}")
    if result.skipped:
        say(_skipped(result.skipped).lstrip(", "))
    _say_notes(result.data["notes"])
    for note in result.notes:
        say(f"- {note}")
    if result.properties:
        for title, columns, left, rows in property_tables([(str(name), result.properties)]):
            say(f"\n{title}")
            print_table(columns, rows, left=left)


def print_benchmark(result: Benchmark) -> None:
    """Latencies, and what was not measured."""
    print_table(LATENCY_COLUMNS, latency_rows(result.to_dict()))
    for info, reason in zip(result.artifacts, result.not_measured, strict=True):
        if reason is not None:
            say(f"{info['name']}: not measured: {reason}")


def print_demo(report: Report, root: Path) -> None:
    """The report, and where everything is."""
    print_report(report.to_dict())
    place = Workspace(root)
    say(f"report:    {place.report / 'report.html'}, report.md and report.json")
    say(f"exported:  {place.onnx / 'model.onnx'} and model.float.onnx")
    say(f"quantized: {place.quantized}")


def print_targets() -> None:
    """Which formats each target has kernels for."""
    columns, rows = target_rows()
    print_table(columns, rows, left=len(columns))


def print_environment() -> None:
    """Versions, CPU features, and what can be built and run here."""
    from .environment import describe_environment
    from .versions import too_old

    environment = describe_environment()
    for key, value in environment.items():
        if not isinstance(value, dict):
            say(f"{key:<18} {value}")
    old = too_old()
    for key, value in {**environment["versions"], **{key: here for key, (here, _) in old.items()}}.items():
        say(f"{key:<18} {value}" + (f"  too old: needs {old[key][1]}" if key in old else ""))
    import onnxruntime as ort

    say(f"{'ort providers':<18} {' '.join(ort.get_available_providers())}")
    for state in (state for target in ALL.values() for state in target.states()):
        say(f"\n{state.name}")
        say(f"  build: {state.cannot_build or 'yes'}")
        say(f"  run:   {state.cannot_run or 'yes'}")
