"""What a target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from ...model.illama import Illama

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """A runtime to export for.

    Attributes:
        folder: name of the workspace's folder that its files go to.
        build: a network, float or quantized, to the graph that this runtime is fastest with.
    """

    name: str
    folder: str
    build: Callable[[Illama], ir.Model]
