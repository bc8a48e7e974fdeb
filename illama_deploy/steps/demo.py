"""The whole chain on the embedded default."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..checkpoint import EMBEDDED
from ..options import step
from ..options.steps import DemoOptions
from ..report import Report
from ..workspace import Workspace
from .check import check
from .export import export
from .quantize import quantize

__all__ = ["demo"]


@step(DemoOptions)
def demo(options: DemoOptions) -> tuple[Report, Path]:
    """Quantize, export and check the embedded digits network.

    Returns:
        The report, and the directory that everything was written to.
    """
    force = options.forced.force
    root = options.out if options.out is not None else Path(tempfile.mkdtemp(prefix="illama-demo-"))
    workspace = Workspace(root)
    quantize(EMBEDDED, out=workspace.quantized, force=force, workspace=workspace)
    exported = export(workspace.quantized, out=workspace.onnx, force=force, workspace=workspace)
    assert exported.model is not None and exported.float_model is not None
    report = check(
        [exported.model],
        baseline=exported.float_model,
        out=workspace.report,
        force=force,
        seconds=options.seconds,
        workspace=workspace,
    )
    return report, root
