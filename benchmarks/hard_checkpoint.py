"""The CIFAR-10 checkpoint made hard on purpose, without changing its function: does the same recipe still hold?

    python benchmarks/hard_checkpoint.py ../shared [--seed 0] > benchmarks/hard_checkpoint.md

Each fc3/fc2 channel is rescaled by 2^u, u uniform in ±6 (up to 64), each norm weight by 2^u, u uniform in ±5, the
columns that read it by 2^-u. Besides the shipped recipes, naive settings: no rewrites, ranges by the largest value,
nearest rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from pathlib import Path

import torch

import illama_deploy
from illama_deploy.checkpoint import read_checkpoint, save_checkpoint
from illama_deploy.data import Loader, open_data
from illama_deploy.environment import describe_environment
from illama_deploy.measure.statistics import paired_drop
from illama_deploy.model import Illama
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe

NAIVE = {"rewrites": (), "range": "minmax", "rounding": "nearest", "weight_clip": "minmax"}


@torch.no_grad()
def harden(model: Illama, seed: int) -> None:
    """In place; the function stays."""
    draw = torch.Generator().manual_seed(seed)

    def factors(count: int, octaves: float) -> torch.Tensor:
        return torch.exp2((2 * torch.rand(count, generator=draw) - 1) * octaves)

    for block in model.blocks:
        hidden = factors(block.mlp.fc3.out_features, 6)
        block.mlp.fc3.weight.mul_(hidden[:, None])
        block.mlp.fc2.weight.div_(hidden)
        for norm, readers in ((block.norm1, (block.attn.qkv,)), (block.norm2, (block.mlp.fc1, block.mlp.fc3))):
            spread = factors(len(norm.weight), 5)
            norm.weight.mul_(spread)
            for linear in readers:
                linear.weight.div_(spread)


@torch.inference_mode()
def run(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(chunk) for chunk in images.split(100)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    plain, data = options.shared / "checkpoints" / "illama-tiny-cifar10.pth", f"parquet:{options.shared}/data/cifar10"
    source = read_checkpoint(plain)
    loader = Loader(open_data(data, None, role="evaluate"), source.preprocessing, classes=10, batch_size=250)
    batches = list(loader)
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    model = source.build().eval()
    reference = run(model, images)
    correct, power = (reference.argmax(1) == labels).numpy(), float(reference.square().sum())
    harden(model, options.seed)
    noise = float((run(model, images) - reference).square().sum())
    environment = describe_environment()
    print("# A checkpoint made hard on purpose\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores; ", end="")
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()) + ".\n")
    print(f"    python benchmarks/hard_checkpoint.py ../shared --seed {options.seed} > benchmarks/hard_checkpoint.md\n")
    print(
        f"Its function is that of the unaltered one: {sqnr_db(power, noise):.1f} dB over {len(labels)} test images.\n"
    )
    print(
        "| checkpoint | recipe | top-1 % | drop, points (95 %) | SQNR dB |\n| --- | --- | --- | --- | --- |", flush=True
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hard = folder / "hard.safetensors"
        save_checkpoint(hard, model.state_dict(), source.config, source.preprocessing, classes=source.classes)
        for format_ in ("W8A8", "W4A8"):
            shipped = Recipe.for_format(format_)
            naive = shipped.override(**NAIVE)
            for which, checkpoint, kind, recipe in (
                ("unaltered", plain, "shipped", shipped),
                ("hard", hard, "shipped", shipped),
                ("unaltered", plain, "naive", naive),
                ("hard", hard, "naive", naive),
            ):
                artifact = illama_deploy.quantize(
                    checkpoint, recipe=recipe, data=data, out=folder / "quantized", force=True
                )
                logits = run(artifact.model, images)
                right = (logits.argmax(1) == labels).numpy()
                drop = paired_drop(correct, right)
                sqnr = sqnr_db(power, float((logits - reference).square().sum()))
                print(
                    f"| {which} | {format_}, {kind} | {100 * right.mean():.2f} "
                    f"| {drop.value:+.2f} ({drop.low:+.2f} to {drop.high:+.2f}) | {sqnr:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
