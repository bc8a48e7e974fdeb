"""Geometry L as W4A16 in ONNX Runtime: size against float32, and that it loads and runs.

python benchmarks/w4a16_large.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from geometries import float_network, logit_sqnr, quantized_network, random_network, write
from quantize_static import session

from illama_deploy.quant import quantized_modules
from illama_deploy.targets.onnx_cpu.proof import prove_onnxruntime

model, images = random_network("large")
with tempfile.TemporaryDirectory() as folder:
    network = quantized_network(model, images, "W4A16")
    path = write(network, "onnx-cpu", Path(folder) / "w4a16.onnx")
    whole = write(float_network(model), "onnx-cpu", Path(folder) / "float.onnx")
    sizes = [p.stat().st_size / 1e6 for p in (path, whole)]
    print(f"{sizes[0]:.1f} MB of {sizes[1]:.1f} MB: {100 * sizes[0] / sizes[1]:.1f} %")
    print(prove_onnxruntime(path, {name: module.format for name, module in quantized_modules(network)}))
    run = session(path, 2)
    print(f"logits of one image: {run(np.zeros((1, 3, 224, 224), np.float32)).shape}, {logit_sqnr(run, model):.1f} dB")
