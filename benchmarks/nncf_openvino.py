"""Our INT8 graph against NNCF's, both in OpenVINO on the CPU, taking turns in one process.

    pip install nncf; python benchmarks/nncf_openvino.py tiny 1 16        (or: base 1 8) [--threads 2]

Random weights at 224 px, 16 random images for calibration. The peer gets the converted torch model, quantized as a
transformer for both of its CPU devices; the faster one counts. Every file runs with its better precision hint. Beside
them our float file with the bfloat16 hint, the honest baseline on CPUs that have it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nncf
import openvino as ov
import torch
from geometries import compare, float_network, logit_sqnr, openvino_session, quantized_network, random_network, write

HINTS = ("bf16", "f32")


def peers(model: torch.nn.Module, images: torch.Tensor, folder: Path) -> dict[str, ov.Model]:
    torch.onnx.export(
        model, (images[:2],), str(folder / "plain.onnx"), dynamo=True, opset_version=21, input_names=["images"],
        dynamic_shapes={"images_BCHW": {0: "batch"}}, external_data=False,
    )  # fmt: skip
    data = nncf.Dataset([part.numpy() for part in images.split(1)])
    # Converting torch's exported program instead gave NNCF slower graphs.
    return {
        f"NNCF {device.value}": nncf.quantize(
            ov.Core().read_model(folder / "plain.onnx"), data, model_type=nncf.ModelType.TRANSFORMER,
            target_device=device, subset_size=len(images),
        )
        for device in (nncf.TargetDevice.CPU, nncf.TargetDevice.CPU_SPR)
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("batch", type=int, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    model, images = random_network(given.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = write(quantized_network(model, images), "openvino", folder / "ours.onnx")
        floats = write(float_network(model), "openvino", folder / "float.onnx")
        models = {**peers(model, images, folder), "float": floats, "ours": ours}
        runs = {
            f"{label} {hint}": openvino_session(file, given.threads, hint)
            for label, file in models.items()
            for hint in HINTS
        }
    # Ours last, at its better hint for this machine: what all others are compared with.
    trial = compare(
        {**{n: r for n, r in runs.items() if n == "ours f32"}, "ours bf16": runs["ours bf16"]}, given.batch[0], 5
    )
    best = "ours bf16" if trial["ours f32"].value > 1 else "ours f32"
    runs = {**{n: r for n, r in runs.items() if n != best}, best: runs[best]}
    print(f"openvino {ov.__version__}, nncf {nncf.__version__}, {given.size}, threads {given.threads}; logit SQNR:")
    print(", ".join(f"{label} {logit_sqnr(run, model):.1f} dB" for label, run in runs.items()))
    for batch in given.batch:
        result = compare(runs, batch, given.seconds)
        rounds = result.pop("rounds")
        print(
            f"batch {batch}, {rounds} rounds; {best} is so many times as fast as: "
            + ", ".join(f"{label} {r.value:.2f} ({r.low:.2f} to {r.high:.2f})" for label, r in result.items())
        )


if __name__ == "__main__":
    main()
