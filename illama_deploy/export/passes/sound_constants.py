"""Refuse constants that are no numbers, and step sizes that are none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError

__all__ = ["SoundConstants"]

#: Elements that are looked at at a time, so that a large constant needs no second one.
PART = 1 << 24


class SoundConstants(InPlacePass):
    """Change nothing; every constant that was written must be finite, and every scale of Q/DQ above 0."""

    def call(self, model: ir.Model) -> PassResult:
        return PassResult(model, False)

    def ensures(self, model: ir.Model) -> None:
        """No NaN, no infinity; scales above 0."""
        scales = {node.inputs[1] for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
        for graph in model.graphs():
            for value in graph.initializers.values():
                if value.const_value is None or not value.const_value.dtype.is_floating_point():
                    continue
                flat = value.const_value.numpy().reshape(-1)
                parts = [flat[start : start + PART].astype(np.float32) for start in range(0, flat.size, PART)]
                if not all(np.isfinite(part).all() for part in parts):
                    raise PostconditionError(f"{value.name} is not finite")
                if value in scales and not all((part > 0).all() for part in parts):
                    raise PostconditionError(f"{value.name} is a scale and not above 0")
