"""Where each step leaves its output for the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

__all__ = ["DEFAULT_WORKSPACE", "Workspace"]

DEFAULT_WORKSPACE = Path("illama-out")


@dataclass(frozen=True)
class Workspace:
    """One folder with a place for each step."""

    root: Path = DEFAULT_WORKSPACE

    @property
    def trained(self) -> Path:
        """What `train` writes."""
        return self.root / "train"

    @property
    def qat(self) -> Path:
        """What `qat` writes."""
        return self.root / "qat"

    @property
    def quantized(self) -> Path:
        """What `quantize` writes."""
        return self.root / "quantized"

    @property
    def onnx(self) -> Path:
        """What `export --onnx` writes."""
        return self.root / "onnx"

    @property
    def tensorrt(self) -> Path:
        """What `export --trt` writes."""
        return self.root / "trt"

    @property
    def report(self) -> Path:
        """What `check` writes."""
        return self.root / "report"

    def need(self, path: Path, made_by: str) -> Path:
        """Return `path`, or say which step makes it.

        Raises:
            UsageError: it isn't there.
        """
        if not path.exists():
            raise UsageError(
                "Nothing was named, and the step before left nothing here.",
                where=path,
                hint=f"Run 'illama-deploy {made_by}' first, or name what to take.",
            )
        return path
