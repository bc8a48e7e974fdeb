"""The CIFAR-10 network for other classes: animals against vehicles, and handwritten digits; all of it, or the head.

    python benchmarks/transfer.py ../shared > benchmarks/transfer.md

Each row is one command, `illama-deploy train --recipe transfer-small --checkpoint … --new-head --data …`. Animals and
vehicles are 2,000 of CIFAR-10's training and 1,000 of its test images, as a folder of class folders.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

import illama_deploy
from illama_deploy.data import open_data
from illama_deploy.environment import describe_environment

ANIMALS = {"bird", "cat", "deer", "dog", "frog", "horse"}
COUNTS = {"train": 2000, "test": 1000}


def write_folder(data: str, folder: Path) -> None:
    """Lay images out as FOLDER/SPLIT/{animal,vehicle}/N.png."""
    for split, count in COUNTS.items():
        source = open_data(data, split, role="train")
        for sample in source.read(range(count)):
            label = "animal" if source.classes[sample.label] in ANIMALS else "vehicle"
            place = folder / split / label
            place.mkdir(parents=True, exist_ok=True)
            sample.load().save(place / f"{sample.index}.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    options = parser.parse_args()
    checkpoint = options.shared / "checkpoints" / "illama-tiny-cifar10.pth"
    environment = describe_environment()
    print("# Transfer to other classes\n")
    threads, sets = torch.get_num_threads(), environment["instruction sets"]
    print(f"{date.today()}, {environment['cpu']} ({sets}), {threads} threads; ", end="")
    print(f"torch {torch.__version__}.\n\n    python benchmarks/transfer.py ../shared > benchmarks/transfer.md\n")
    print("| data | trained | held-out top-1 % | of images | epochs | minutes |\n" + "| --- " * 6 + "|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        write_folder(f"parquet:{options.shared / 'data' / 'cifar10'}", Path(name) / "images")
        for label, data in (("animals, vehicles", f"folder:{name}/images"), ("digits", "digits")):
            for frozen in (False, True):
                start = time.perf_counter()
                result = illama_deploy.train(
                    "transfer-small", checkpoint=checkpoint, new_head=True, frozen=frozen, data=data,
                    out=Path(name) / f"{label}-{frozen}",
                )  # fmt: skip
                minutes = (time.perf_counter() - start) / 60
                figures = result.figures
                learns = "the head alone" if frozen else "all"
                print(
                    f"| {label} | {learns} | {figures['top1']:.2f} | {figures['images']} | {figures['epoch']} "
                    f"| {minutes:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
