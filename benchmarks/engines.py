"""Engines of all published geometries in all precisions, built without a GPU by TensorRT for RTX.

    python benchmarks/engines.py [tiny small base large] > benchmarks/engines.md

Random weights at 224 px, batch 1 to 32, compute capability 8.9. Sizes of ONNX file and engine against what the weights
alone take, and the GEMM precisions that the parsed network declares.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import tensorrt_rtx
from geometries import float_network, quantized_network, random_network, write

from illama_deploy.formats import parse_format
from illama_deploy.targets.tensorrt.engine import Profile, build_engine

FORMATS = ("float16", "W8A8", "W4A16", "FP8")


def weight_bytes(network: object, bits: int, group: int | None) -> int:
    """Bytes of all GEMM weights at that width, with a float16 step size for each group."""
    from torch import nn

    from illama_deploy.quant import QuantConv2d, QuantLinear

    counts = [
        (m.weight_q if isinstance(m, QuantLinear | QuantConv2d) else m.weight).numel()
        for m in network.modules()
        if isinstance(m, QuantLinear | QuantConv2d | nn.Linear | nn.Conv2d)
    ]
    return sum(counts) * bits // 8 + (sum(counts) * 2 // group if group else 0)


def main() -> None:
    sizes = sys.argv[1:] or ["tiny", "small", "base", "large"]
    print("# Engines without a GPU\n")
    print(f"{date.today()}, tensorrt_rtx {tensorrt_rtx.__version__}.\n")
    print("    python benchmarks/engines.py > benchmarks/engines.md\n")
    print("| geometry | precision | weights alone, MB | ONNX, MB | engine, MB | build, s | GEMMs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        model, images = random_network(size)
        for name in FORMATS:
            network = float_network(model) if name == "float16" else quantized_network(model, images, name)
            with tempfile.TemporaryDirectory() as folder:
                onnx = write(network, "tensorrt", Path(folder) / "model.onnx")
                engine = Path(folder) / "model.engine"
                start = time.perf_counter()
                sidecar = build_engine(
                    onnx, engine, flavor="rtx", profile=Profile(1, 8, 32), capabilities=("8.9",),
                    about={"precision": {}, "manifest_sha256": ""}, rebuild="",
                )  # fmt: skip
                seconds = time.perf_counter() - start
                layers = json.loads(sidecar.read_text())["layers"]
                rows = layers["list"]
                gemms = Counter(row["precision"] for row in rows if row["type"] == "MATRIX_MULTIPLY")
                format_ = None if name == "float16" else parse_format(name)
                bits = 16 if format_ is None else format_.weights.bits
                alone = weight_bytes(network, bits, format_.group if format_ else None)
                print(
                    f"| {size} | {name} | {alone / 1e6:.1f} | {onnx.stat().st_size / 1e6:.1f} "
                    f"| {engine.stat().st_size / 1e6:.1f} | {seconds:.0f} "
                    f"| {', '.join(f'{count} {kind}' for kind, count in gemms.items())} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
