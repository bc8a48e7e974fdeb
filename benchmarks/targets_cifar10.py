"""Every CPU target file of the CIFAR-10 checkpoint against the network in torch, image by image.

    python benchmarks/targets_cifar10.py ../shared > benchmarks/targets_cifar10.md

W8A8, W4A8 and W4A16 by their default recipes; top-1, agreement and logit SQNR on the 5,000 test images of each file
that ONNX Runtime or OpenVINO can run (those for GPUs in ONNX Runtime on the CPU, where float16 is emulated). Sizes
with their share of the float32 file.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

import illama_deploy
from illama_deploy.environment import describe_environment
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.targets import TARGETS
from illama_deploy.targets.open import open_artifact

FORMATS = ("W8A8", "W4A8", "W4A16")
RUNS = (
    ("onnx-cpu", "ONNX Runtime", {}),
    ("openvino", "OpenVINO, f32", {"precision": "f32"}),
    ("openvino", "OpenVINO, bf16", {"precision": "bf16"}),
    ("onnx-cuda", "ONNX Runtime", {"backend": "cpu"}),
    ("tensorrt", "ONNX Runtime", {"backend": "cpu"}),
)


def images(artifact: illama_deploy.QuantizedArtifact, data: str) -> tuple[np.ndarray, np.ndarray]:
    from illama_deploy.data import Loader, open_data

    loader = Loader(open_data(data, None, role="evaluate"), artifact.preprocessing, classes=10, batch_size=250)
    batches = [(batch.images.numpy(), batch.labels.numpy()) for batch in loader]
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def main() -> None:
    shared = Path(sys.argv[1])
    checkpoint, data = shared / "checkpoints" / "illama-tiny-cifar10.pth", f"parquet:{shared / 'data' / 'cifar10'}"
    environment = describe_environment()
    print("# Every CPU target of illama-tiny-cifar10\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores ({environment['instruction sets']});")
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()) + ".\n")
    print("    python benchmarks/targets_cifar10.py ../shared > benchmarks/targets_cifar10.md\n")
    print("| format | target | runtime | MB | of float32 % | top-1 % | torch % | agreement % | SQNR dB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for format_ in FORMATS:
            start = time.perf_counter()
            artifact = illama_deploy.quantize(checkpoint, format=format_, data=data, out=root / format_)
            notes.append(f"{format_}: quantized in {time.perf_counter() - start:.0f} s")
            x, labels = images(artifact, data)

            def logits(runtime: illama_deploy.Runtime, x: np.ndarray = x) -> np.ndarray:
                return np.concatenate([runtime.run(x[i : i + 50]) for i in range(0, len(x), 50)])

            expected = logits(open_artifact(artifact.path))
            guesses = expected.argmax(1)
            for target, label, options in RUNS:
                out = root / f"{format_}-{target}"
                if format_ in TARGETS[target].missing:  # no kernel for it
                    continue
                result = illama_deploy.export(
                    artifact.path, target=target, onnx_only=True, source=checkpoint, out=out, force=True
                )
                found = logits(open_artifact(result.model, **options))
                noise = sqnr_db(float((expected.astype(float) ** 2).sum()), float(((found - expected) ** 2).sum()))
                size, whole = result.model.stat().st_size, result.float_model.stat().st_size
                whole *= 2 if label == "ONNX Runtime" and options else 1  # those for GPUs are in float16
                top1, torch1 = (100 * float((g == labels).mean()) for g in (found.argmax(1), guesses))
                print(
                    f"| {format_} | {target} | {label} | {size / 1e6:.2f} | {100 * size / whole:.1f} | {top1:.2f} "
                    f"| {torch1:.2f} | {100 * float((found.argmax(1) == guesses).mean()):.2f} | {noise:.1f} |",
                    flush=True,
                )
                if result.proof is not None and label != "OpenVINO, bf16":
                    notes.append(f"{format_}, {target}: {result.proof}")
    print()
    for note in notes:
        print(f"- {note}")


if __name__ == "__main__":
    main()
