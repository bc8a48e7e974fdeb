"""The commands: each is the function of the same name, with its options (`options/steps.py`).

Kept light: torch, onnx and timm are imported by the commands that need them, never for --help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .command_line import command, make_app, run, typed
from .console import say
from .options.steps import (
    BenchOptions,
    CheckOptions,
    DemoOptions,
    DoctorOptions,
    EvaluateOptions,
    ExportLine,
    InspectOptions,
    QatOptions,
    QuantizeOptions,
    ReportOptions,
    TrainOptions,
)
from .workspace import Workspace

__all__ = ["app", "main"]

app = make_app("Train and quantize iLLaMA, export it, and prove what was shipped.")


@command(app, TrainOptions)
def train(options: TrainOptions) -> None:
    from .printing import print_trained
    from .steps.train import train as step

    print_trained(step(options))


@command(app, QatOptions)
def qat(options: QatOptions) -> None:
    from .printing import print_trained
    from .steps.qat import qat as step

    print_trained(step(options))


@command(app, QuantizeOptions)
def quantize(options: QuantizeOptions) -> None:
    from .printing import print_quantized
    from .steps.quantize import quantize as step

    print_quantized(step(options))


@command(app, ExportLine)
def export(options: ExportLine) -> None:
    chosen = options.chosen()
    from .printing import print_exported
    from .steps.export import export as step

    result = step(chosen)
    print_exported(result, chosen.target)
    if result.unavailable is not None:
        raise result.unavailable


@command(app, EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    from .printing import print_evaluation
    from .steps.evaluate import evaluate as step

    if options.artifact is None:
        options = options.but(artifact=_newest(options.place.workspace))
    print_evaluation(step(options), options.artifact)


@command(app, BenchOptions)
def bench(options: BenchOptions) -> None:
    from .printing import print_benchmark
    from .steps.bench import bench as step
    from .steps.shared.inputs import exported_files

    if not options.artifacts:
        newest = Path(_newest(options.place.workspace, "export"))
        options = options.but(artifacts=[str(path) for path in exported_files(newest)])
    result = step(options)
    print_benchmark(result)
    raise typer.Exit(result.exit_code)


@command(app, CheckOptions)
def check(options: CheckOptions) -> None:
    from .report import RENDERERS, print_report
    from .steps.check import check as step

    result = step(options.but(command=typed()))
    print_report(result.to_dict())
    place = options.output.out or (options.output.workspace or Workspace()).report
    say(f"wrote {place}: report.json, {', '.join(renderer.file for renderer in RENDERERS.values())}")
    raise typer.Exit(result.exit_code(options.strict))


@command(app, ReportOptions)
def report(options: ReportOptions) -> None:
    from .steps.report import report as step

    for path in step(options):
        say(f"wrote {path}")


@command(app, DemoOptions)
def demo(options: DemoOptions) -> None:
    from .printing import print_demo
    from .steps.demo import demo as step

    print_demo(*step(options))


@command(app, InspectOptions)
def inspect(options: InspectOptions) -> None:
    from .report.terminal import print_table
    from .steps.inspect import inspect as step

    if options.artifact is None:
        options = options.but(artifact=_newest(options.place.workspace, "quantize", "qat", "export"))
    result = step(options)
    print_table(result.columns, result.rows, left=3)
    say(result.summary)


@command(app, DoctorOptions)
def doctor(options: DoctorOptions) -> None:
    from .printing import print_environment, print_targets

    print_targets() if options.targets else print_environment()


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        from .versions import package_version

        say(f"illama-deploy {package_version('illama-deploy') or 'unknown'}")
        raise typer.Exit(0)


def _newest(workspace: Workspace | None, *steps: str) -> str:
    """The newest artifact of the workspace that one of these steps made, and a line that says so."""
    from .steps.shared.inputs import choose_any

    chosen = choose_any(workspace or Workspace(), *steps)
    say(chosen.why)
    return str(chosen.path)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit; see `command_line.run`."""
    run(app, arguments)


if __name__ == "__main__":
    main()
