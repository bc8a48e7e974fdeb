"""What every profile of an ONNX file is made on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..runtime.onnx_file import read_onnx

__all__ = ["RUNS", "WARMUP", "one_image"]

WARMUP, RUNS = 3, 20


def one_image(path: Path) -> np.ndarray:
    """Seeded noise of the size that a file takes: float32 [1, C, H, W]."""
    preprocessing = read_onnx(path).preprocessing
    shape = (1, preprocessing.channels, *preprocessing.size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
