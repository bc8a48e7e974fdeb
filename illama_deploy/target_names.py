"""The registry of targets: one line for each, with what the command line needs to know of it.

Kept light: a target's folder in `targets/` is imported when it is asked for (`targets.TARGETS`), never for --help.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError

__all__ = ["LINES", "TargetLine", "find_line", "known_targets"]


@dataclass(frozen=True)
class TargetLine:
    """A target as it is named.

    Attributes:
        name: its name everywhere: on the command line, in Python, in files and reports.
        folder: its folder in `targets/`.
        flag: option of `export` that chooses it. Where several have the same, it means the first, and `--target` may
            name another. Empty: nothing is exported for it.
        help: of that option.
        aliases: short names that `--target` takes, too.
    """

    name: str
    folder: str
    flag: str = ""
    help: str = ""
    aliases: tuple[str, ...] = ()


LINES = (
    TargetLine("onnx-cpu", "onnx_cpu", "--onnx", "ONNX for ONNX Runtime.", ("cpu",)),
    TargetLine("onnx-cuda", "onnx_cuda", "--onnx", aliases=("cuda",)),
    TargetLine("openvino", "openvino", "--openvino", "ONNX for OpenVINO's CPU kernels."),
    TargetLine("tensorrt", "tensorrt", "--trt", "TensorRT engines, and the ONNX they are built from.", ("trt",)),
    TargetLine("executorch", "executorch", "--executorch", "ExecuTorch program (.pte) for XNNPACK."),
    TargetLine("torch", "torch_cpu"),
)


def find_line(name: str, *, exports: bool = False) -> TargetLine:
    """A target's line by its name or an alias.

    Args:
        exports: only of those that files are written for.

    Raises:
        UsageError: there is none of that name.
    """
    lines = [line for line in LINES if line.flag or not exports]
    for line in lines:
        if name in (line.name, *line.aliases):
            return line
    raise UsageError(f"There is no target {name!r}.", hint=f"Use one of: {known_targets(exports=exports)}.")


def known_targets(*, exports: bool = False, between: str = ", ") -> str:
    """The names of all targets, or of those that files are written for, with their aliases."""
    lines = [line for line in LINES if line.flag or not exports]
    return between.join(" or ".join((line.name, *line.aliases)) for line in lines)
