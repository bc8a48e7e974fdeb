"""The whole chain on the embedded default."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..checkpoint import EMBEDDED
from ..report import Report
from ..workspace import Workspace
from .check import check
from .export import export
from .quantize import quantize

__all__ = ["demo"]


def demo(out: str | Path | None = None, *, force: bool = False, seconds: float = 3.0) -> tuple[Report, Path]:
    """Quantize, export and check the embedded digits network.

    Args:
        out: directory to work in; a temporary one, which is kept, where not given.
        force: replace what an earlier demo left there.
        seconds: about how long to measure latency at each batch size.

    Returns:
        The report, and the directory that everything was written to.
    """
    root = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="illama-demo-"))
    workspace = Workspace(root)
    quantize(EMBEDDED, out=workspace.quantized, force=force, workspace=workspace)
    exported = export(workspace.quantized, out=workspace.onnx, force=force, workspace=workspace)
    assert exported.model is not None and exported.float_model is not None
    report = check(
        [exported.model],
        baseline=exported.float_model,
        out=workspace.report,
        force=force,
        seconds=seconds,
        workspace=workspace,
    )
    return report, root
