"""Every format by its shipped recipe: top-1 lost after training only, and whether ONNX computes the same.

    python benchmarks/post_training.py ../shared [--formats W4A4 ...] [--seeds 0 1 2] [--effort best] > FILE

Calibration images are drawn from the training images by the seed (which random rotations take too); all are judged on
the 5,000 test images, the exported file (with `--simulate` where no kernel takes the format) with the first seed alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

import illama_deploy
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.data import Loader, open_data
from illama_deploy.environment import describe_environment
from illama_deploy.measure.statistics import paired_drop
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe
from illama_deploy.targets.open import open_artifact

FORMATS = ("W8A8", "W8A8-dynamic", "FP8", "W4A8", "W4A4", "W3A3", "W4A16-g64", "W2A16")


@torch.inference_mode()
def run(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    return torch.cat([model(chunk) for chunk in images.split(100)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--effort", default="balanced")
    options = parser.parse_args()
    checkpoint, spec = options.shared / "checkpoints" / "illama-tiny-cifar10.pth", options.shared / "data" / "cifar10"
    data, source = f"parquet:{spec}", read_checkpoint(checkpoint)
    loader = Loader(open_data(data, None, role="evaluate"), source.preprocessing, classes=10, batch_size=250)
    batches = list(loader)
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]).numpy()
    reference = run(source.build().eval(), images)
    correct, power = reference.argmax(1) == labels, float((reference.astype(float) ** 2).sum())
    environment = describe_environment()
    print("# After training only, by format\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores; ", end="")
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()) + ".\n")
    print(f"Float: {100 * correct.mean():.2f} % of {len(labels)} test images. Effort: {options.effort}.\n")
    print("| format | seed | drop, points (95 %) | agreement % | SQNR dB | s | ONNX: top-1 as torch % | SQNR dB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    means = []
    for name in options.formats:
        drops = []
        for seed in options.seeds:
            recipe = Recipe.for_format(name, options.effort).override(seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                artifact = illama_deploy.quantize(checkpoint, recipe=recipe, data=data, out=Path(folder) / "quantized")
                seconds = time.perf_counter() - start
                logits = run(artifact.model, images)
                shipped = "– | –"
                if seed == options.seeds[0]:
                    exported = illama_deploy.export(
                        artifact.path, simulate=True, float=False, out=Path(folder) / "onnx"
                    )
                    runtime = open_artifact(exported.model, threads=2)
                    found = np.concatenate([runtime.run(x.numpy()) for x in images.split(50)])
                    same = float((found.argmax(1) == logits.argmax(1)).mean())
                    noise = sqnr_db(float((logits.astype(float) ** 2).sum()), float(((found - logits) ** 2).sum()))
                    shipped = f"{100 * same:.2f}{' (simulated)' if exported.simulated else ''} | {noise:.1f}"
            right = logits.argmax(1) == labels
            drop = paired_drop(correct, right)
            drops.append(drop.value)
            agreement = 100 * float((logits.argmax(1) == reference.argmax(1)).mean())
            sqnr = sqnr_db(power, float(((logits - reference).astype(float) ** 2).sum()))
            print(
                f"| {name} | {seed} | {drop.value:+.2f} ({drop.low:+.2f} to {drop.high:+.2f}) | {agreement:.2f} "
                f"| {sqnr:.1f} | {seconds:.0f} | {shipped} |",
                flush=True,
            )
        spread = statistics.stdev(drops) if len(drops) > 1 else 0.0
        means.append(
            f"- {name}: mean drop {statistics.mean(drops):+.2f}, largest {max(drops):+.2f}, deviation {spread:.2f}"
        )
    print("\n" + "\n".join(means))


if __name__ == "__main__":
    main()
