"""Constants of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["constant_value"]


def constant_value(name: str, array: np.ndarray | np.generic) -> ir.Value:
    """Make an initializer's value; the caller registers it with its graph."""
    tensor = ir.tensor(np.asarray(array), name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)  # type: ignore[arg-type]
