"""Which of iLLaMA's properties survive quantization: calibration, shape bias and attention rank of a CIFAR-10 network.

    python benchmarks/properties.py ../shared > benchmarks/properties.md

Float, W8A8 and W4A8 by their shipped recipes, in torch with the exact integers of every export (and W8A8 in ONNX
Runtime), on 5,000 test images (`--limit`), the cue-conflict stimuli whose categories CIFAR-10 has, and 512 test images
for ranks (`--rank-images`). `--corruptions` adds ImageNet-C's 15 corruptions, severity 1 to 5.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import illama_deploy
from illama_deploy.environment import describe_environment
from illama_deploy.measure import Accuracy, Binning
from illama_deploy.properties import property_tables

CATEGORIES = Path(__file__).with_name("cifar10_categories.json")
FORMATS = ("W8A8", "W4A8")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--rank-images", type=int, default=512)
    parser.add_argument("--corruptions", action="store_true")
    options = parser.parse_args()
    checkpoint = options.shared / "checkpoints" / "illama-tiny-cifar10.pth"
    data = f"parquet:{options.shared / 'data' / 'cifar10'}"
    names = ("calibration", "shape-bias", *(["corruptions"] if options.corruptions else []))
    asked: dict[str, Any] = {
        "cue_conflict": options.shared / "data" / "cue-conflict" / "images",
        "categories": CATEGORIES,
        "fit_temperature": True,
    }
    wanted = {
        "properties": (*names, "attention-rank"),
        "masks": ("causal", "bidirectional"),
        "rank_images": options.rank_images,
        **asked,
    }
    with tempfile.TemporaryDirectory() as folder:
        artifacts: dict[str, tuple[Any, dict[str, Any]]] = {"float": (checkpoint, wanted)}
        for format_ in FORMATS:
            made = illama_deploy.quantize(checkpoint, format=format_, data=data, out=Path(folder) / format_)
            artifacts[format_] = (made.path, wanted)
        exported = illama_deploy.export(Path(folder) / "W8A8", float=False, out=Path(folder) / "onnx").model
        artifacts["W8A8, ONNX Runtime"] = (exported, {"properties": names, **asked})
        found, mass = {}, {}
        for number, (name, (artifact, properties)) in enumerate(artifacts.items()):
            logits = Path(folder) / f"{number}.npz"
            found[name] = illama_deploy.evaluate(
                artifact, data=data, limit=options.limit, **properties, save_logits=logits
            )
            accuracy = Accuracy(1, Binning(15, "equal-mass"))
            with np.load(logits) as saved:
                accuracy.update(saved["logits"], saved["labels"])
            mass[name] = accuracy.to_dict()["ece"]
    environment = describe_environment()
    print("# Properties of illama-tiny-cifar10\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores; ", end="")
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()) + ".\n")
    print("    python benchmarks/properties.py ../shared > benchmarks/properties.md\n")
    images = found["float"].figures["images"]
    print(f"{images} test images; each bound of an interval holds with 95 % confidence.\n")
    print("## Calibration\n\n15 bins of equal width; temperatures fitted on 1,024 training images.\n")
    print("| artifact | top-1 % | ECE | float's less | ECE, equal mass | NLL | Brier |\n" + "| --- " * 7 + "|")
    base = found["float"].figures
    for name, one in found.items():
        f = one.figures
        print(
            f"| {name} | {f['top1']:.2f} | {f['ece']:.4f} | {f['ece'] - base['ece']:+.4f} | {mass[name]:.4f} "
            f"| {f['nll']:.4f} | {f['brier']:.4f} |"
        )
    named = [(name, one.properties) for name, one in found.items()]
    for title, columns, _, rows in property_tables(named):
        print(f"\n## {title}, with intervals\n" if title == "Calibration" else f"\n## {title}\n")
        print(table(columns, rows))
        if title == "Attention rank":
            print("\n" + "\n".join(ranks(found)))


def ranks(found: dict[str, Any]) -> list[str]:
    """Mean ranks against float's."""
    means = {
        name: [by_mask["mean"] for by_mask in one.properties["attention_rank"]["masks"]]
        for name, one in found.items()
        if "attention_rank" in one.properties
    }
    return [
        f"- {name}: mean rank {causal:.2f} causal ({100 * (causal / means['float'][0] - 1):+.2f} % of float's), "
        f"{both:.2f} bidirectional"
        for name, (causal, both) in means.items()
    ]


if __name__ == "__main__":
    main()
