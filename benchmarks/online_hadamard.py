"""What online rotations cost: latency with R3, R4 or both against without, taking turns in one process.

    python benchmarks/online_hadamard.py tiny 1 16        (or: base 1 8) [--blocks 32 64 128 256] [--threads 2]

Random weights at 224 px, W8A8 (W4A8 runs on the same kernels). R3 is for quantized products of attention, so in ONNX
Runtime they are quantized. R4 is measured with each block size that is named.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxruntime as ort
import openvino as ov
import torch
from geometries import compare, openvino_session, quantized_network, random_network, write
from quantize_static import session

from illama_deploy.rewrites import rotate_swiglu_online

R3, R4 = "rotate_qk_online", "rotate_swiglu_online"


def variants(blocks: list[int]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Name to R4's block size and rewrites; the plain network last, which `compare` compares with."""
    return {
        "R3": (blocks[0], (R3,)),
        **{f"R4, blocks of {block}": (block, (R4,)) for block in blocks},
        f"R3 and R4, blocks of {blocks[0]}": (blocks[0], (R3, R4)),
        "neither": (blocks[0], ()),
    }


def files(
    model: torch.nn.Module, images: torch.Tensor, target: str, blocks: list[int], folder: Path
) -> dict[str, Path]:
    """A quantized file of each variant."""
    written = {}
    for number, (name, (block, rewrites)) in enumerate(variants(blocks).items()):
        rotate_swiglu_online.BLOCK = block
        network = quantized_network(model, images, attention_products=target == "onnx-cpu", rewrites=rewrites)
        written[name] = write(network, target, folder / f"{target}.{number}.onnx")
    return written


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("batch", type=int, nargs="+")
    parser.add_argument("--blocks", type=int, nargs="+", default=[rotate_swiglu_online.BLOCK])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    model, images = random_network(given.size)
    print(f"{given.size}, threads {given.threads}, onnxruntime {ort.__version__}, openvino {ov.__version__}")
    with tempfile.TemporaryDirectory() as name:
        runs = {
            "ONNX Runtime": {
                label: session(path, given.threads)
                for label, path in files(model, images, "onnx-cpu", given.blocks, Path(name)).items()
            }
        }
        written = files(model, images, "openvino", given.blocks, Path(name))
        for hint in ("bf16", "f32"):
            runs[f"OpenVINO {hint}"] = {
                label: openvino_session(path, given.threads, hint) for label, path in written.items()
            }
    for batch in given.batch:
        for runtime, several in runs.items():
            result = compare(several, batch, given.seconds)
            rounds = result.pop("rounds")
            print(
                f"{runtime}, batch {batch}, {rounds} rounds; times the latency without: "
                + ", ".join(f"{label} {r.value:.3f} ({r.low:.3f} to {r.high:.3f})" for label, r in result.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
