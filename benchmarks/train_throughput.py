"""Images a second in float training of iLLaMA-T at 32 px: `train --compile` against a plain eager loop, interleaved.

    python benchmarks/train_throughput.py [--batch 256] [--micro-batch 64] [--threads 2] [--rounds 20] [--eager]

Both train the same network with AdamW, each in a process of its own, and take turns of one update. The plain loop is
what one would write: model, loss, backward, step, in bfloat16 autocast, on one batch that is there already. Ours is the
package's own update with everything in it (decoding apart: augmentation, CutMix, schedule, checks and log), in the
precision that the recipe's `auto` takes here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from illama_deploy.data import Sample, Source
from illama_deploy.environment import describe_environment
from illama_deploy.measure import median_ratio
from illama_deploy.measure.held_out import measure_classes
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing
from illama_deploy.rewrites import restructure
from illama_deploy.training import Processes, RunDirectory, RunOptions, TensorImages, Trainer
from illama_deploy.training.processes import fast_precision, keep_memory

CONFIG = IllamaConfig(dim=192, depth=12, heads=3, image_size=(32, 32), patch_size=4, classes=10)


class Noise(Source):
    """Random images."""

    spec, split, classes = "noise", "train", tuple("0123456789")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            yield Sample(i, str(i), i % 10, lambda pixels=pixels: Image.fromarray(pixels))


def plain(batch: int) -> Callable[[], object]:
    """The loop that one would write."""
    model = Illama(CONFIG).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    images, labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10

    def update() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return update


def ours(batch: int, micro_batch: int, *, compile: bool) -> Callable[[], object]:
    """The package's loop, an update at a time."""
    keep_memory()
    options = RunOptions(batch_size=batch, epochs=1000, compile=compile)
    recipe = options.resolve("cifar10-scratch")
    model = Illama(CONFIG)
    restructure(model, ["class_token_last_block"])
    images = TensorImages(
        Noise(8 * batch), recipe, Preprocessing((32, 32)), Processes(), classes=10, micro_batch=micro_batch
    )
    run = RunDirectory(Path(tempfile.mkdtemp()), {}, resume=False, force=True)
    trainer = Trainer(model, None, images, [], run, options, judge=measure_classes, finish=lambda m: m)
    model.train()

    def updates() -> Iterator[None]:
        trainer.saved_at = time.monotonic()
        while True:
            for pieces in images.epoch(trainer.epoch):
                for group in trainer.optimizer.param_groups:
                    group["lr"] = recipe.lr_at(trainer.updates, images.steps)
                loss, _ = trainer._update(pieces, False)
                run.log(updates=trainer.updates, loss=loss)
                yield
            trainer.epoch += 1

    endless = updates()
    return lambda: next(endless)


def work(kind: str, batch: int, micro_batch: int, threads: int) -> None:
    """Do an update for each line that comes in; answer with its seconds."""
    torch.set_num_threads(threads)
    update = plain(batch) if kind == "plain" else ours(batch, micro_batch, compile=kind == "compiled")
    for _ in range(3):
        update()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        update()
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--eager", action="store_true", help="our loop without --compile, too")
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.batch, options.micro_batch, options.threads)
        return
    kinds = ["plain", "compiled"] + ["eager"] * options.eager
    workers = {}
    for kind in kinds:
        command = [sys.executable, __file__, "--worker", kind, "--batch", options.batch]
        command += ["--micro-batch", options.micro_batch, "--threads", options.threads]
        workers[kind] = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert workers[kind].stdout.readline() == "ready\n"
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            times[kind].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    environment = describe_environment()
    print(f"{environment['cpu']} ({environment['instruction sets']}), `auto` is {fast_precision()};")
    print(f"{options.threads} threads, batch {options.batch}, {options.rounds} rounds\n")
    print("| loop | images/s | times the plain loop |\n| --- | --- | --- |")
    for kind in kinds:
        ratio = median_ratio(np.array(times["plain"]), np.array(times[kind]))
        speed = options.batch / np.median(times[kind])
        print(f"| {kind} | {speed:.1f} | {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |")


if __name__ == "__main__":
    main()
