"""INT8 after training on the official-format CIFAR-10 checkpoint: accuracy, parity, kernels, size, latency, memory.

    python benchmarks/cifar10_int8.py ../shared > benchmarks/cifar10_int8.md

About six minutes on two cores. Everything goes through the public functions with their defaults.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import illama_deploy
from illama_deploy.environment import describe_environment

MEMORY = """
import resource, sys, illama_deploy
illama_deploy.quantize(sys.argv[1], bits=8, data=sys.argv[2], calib_images=int(sys.argv[3]), out=sys.argv[4])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    shared = Path(sys.argv[1])
    checkpoint = shared / "checkpoints" / "illama-tiny-cifar10.pth"
    data = f"parquet:{shared / 'data' / 'cifar10'}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        artifact = illama_deploy.quantize(checkpoint, bits=8, data=data, out=root / "quantized")
        exported = illama_deploy.export(artifact.path, out=root / "onnx")
        floats = illama_deploy.evaluate(checkpoint, data=data).figures
        simulated = illama_deploy.evaluate(artifact.path, data=data, reference=checkpoint).figures
        integer = illama_deploy.evaluate(exported.model, data=data, reference=artifact.path).figures
        bench = {
            threads: illama_deploy.bench(
                [exported.float_model, exported.model], batch=[1, 8, 32], threads=threads, seconds=10
            ).to_dict()["artifacts"][1]["latency"]
            for threads in (1, 2)
        }
        sizes = [path.stat().st_size for path in (exported.model, exported.float_model)]
        peaks = []
        for images in (512, 4096):
            arguments = [str(checkpoint), data, str(images), str(root / str(images))]
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True
            )
            peaks.append(int(done.stdout) / 1024)

    environment = describe_environment()
    print("# INT8 on illama-tiny-cifar10\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores ({environment['instruction sets']});")
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()) + ".\n")
    print("    python benchmarks/cifar10_int8.py ../shared > benchmarks/cifar10_int8.md\n")
    print("512 calibration images, default recipe; accuracy on 5,000 test images.\n")
    print("| | top-1 % | ECE | agreement % | logit SQNR dB | compared with |\n| --- | --- | --- | --- | --- | --- |")
    print(f"| float checkpoint, torch | {floats['top1']:.2f} | {floats['ece']:.4f} | – | – | – |")
    for name, figures, other in (("W8A8, torch", simulated, "float"), ("W8A8, ONNX Runtime", integer, "W8A8, torch")):
        print(
            f"| {name} | {figures['top1']:.2f} | {figures['ece']:.4f} | {figures['agreement']:.2f} "
            f"| {figures['logit_sqnr_db']:.1f} | {other} |"
        )
    print(f"\nKernels: {exported.proof}.\n")
    print(f"Size: {sizes[0] / 1e6:.2f} MB of {sizes[1] / 1e6:.2f} MB ({100 * sizes[0] / sizes[1]:.1f} %).\n")
    print("Latency against the float file, both in ONNX Runtime, paired ratio with 95 % bounds:\n")
    print("| threads | batch | rounds | ratio | interval |\n| --- | --- | --- | --- | --- |")
    for threads, rows in bench.items():
        for row in rows:
            print(
                f"| {threads} | {row['batch']} | {row['rounds']} | {row['ratio']:.3f} "
                f"| {row['ratio_low']:.3f} to {row['ratio_high']:.3f} |"
            )
    print(
        f"\nPeak memory of `quantize`: {peaks[0]:.0f} MiB with 512 calibration images, {peaks[1]:.0f} MiB with "
        f"4,096 ({100 * (peaks[1] / peaks[0] - 1):+.1f} %)."
    )


if __name__ == "__main__":
    main()
