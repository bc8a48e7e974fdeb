"""Steps of the road from ViT to iLLaMA that change no operator, from training to the gate.

    python benchmarks/variations.py --out illama-out/variations

Trains each by the recipe `digits`, quantizes it to W8A8, exports it to ONNX Runtime and OpenVINO, checks both, and
prints a table as rows are done. Run again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import illama_deploy
from illama_deploy import TrainRecipe
from illama_deploy.report import overall
from illama_deploy.steps.train import MODEL

VARIATIONS: dict[str, dict[str, str]] = {
    "iLLaMA": {},
    "bidirectional": {"mask": "none"},
    "additive mask": {"mask": "additive"},
    "RoPE only": {"positions": "rope"},
    "learned positions only": {"positions": "learned"},
    "class token first, bidirectional": {"class_token": "first", "mask": "none"},
}
TARGETS = ("onnx-cpu", "openvino")
#: Of networks whose mask is no iLLaMA's: there is nothing to close.
UNMASKED = {"soft_mask": "none", "soft_mask_epochs": 0.0}


def row(name: str, out: Path, epochs: int | None) -> tuple[str, ...]:
    """Train, quantize, export, measure and check one network."""
    changes = VARIATIONS[name]
    recipe = TrainRecipe.read("digits")
    recipe = recipe.override(model=(*recipe.model, *changes.items()))
    if "mask" in changes:
        recipe = recipe.override(**UNMASKED)
    place = out / name.replace(" ", "-").replace(",", "")
    checkpoint, quantized = place / "run" / MODEL, place / "w8a8"
    illama_deploy.train(recipe=recipe, epochs=epochs, out=place / "run", resume=(place / "run").exists())
    if not quantized.exists():
        illama_deploy.quantize(checkpoint, bits=8, out=quantized)
    cells = [name, f"{illama_deploy.evaluate(checkpoint).figures['top1']:.2f}"]
    for target in TARGETS:
        result = illama_deploy.export(quantized, target=target, out=place / target, force=True)
        figures = illama_deploy.evaluate(result.model, reference=quantized).figures
        report = illama_deploy.check(place / target, out=place / f"report-{target}", force=True)
        proof = json.loads((place / target / "export.json").read_text(encoding="utf-8"))["proof"]["summary"]
        verdict = overall(report.gates)
        cells += [proof.split(" quantized")[0], f"{figures['agreement']:.2f}", f"{figures['top1']:.2f}", str(verdict)]
    return tuple(cells)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("illama-out/variations"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rows", nargs="+", default=list(VARIATIONS))
    options = parser.parse_args()
    head = ["network", "float top-1 %"]
    for target in TARGETS:
        head += [f"{target}: integer GEMMs", "agrees with torch %", "top-1 %", "check"]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head), flush=True)
    for name in options.rows:
        print("| " + " | ".join(row(name, options.out, options.epochs)) + " |", flush=True)


if __name__ == "__main__":
    main()
