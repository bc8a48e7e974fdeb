"""The paper's road from ViT to iLLaMA, step by step, on any data and by any recipe.

    python benchmarks/roadmap.py --recipe cifar10-scratch --data parquet:../shared/data/cifar10 --out RUNS --compile
    python benchmarks/roadmap.py … --rows "causal, leading class token" "iLLaMA without soft mask" iLLaMA

Prints the table as rows are done. Run again, it goes on where it was stopped. The recipe's own augmentation and soft
mask belong to the last two steps; those before mix with the strength that DeiT uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import illama_deploy
from illama_deploy import TrainRecipe

VIT = {"ffn": "gelu", "norm": "layer", "mask": "none", "class_token": "first", "positions": "learned"}
#: Row to what it changes in the network of the row before. Collapse needs the -inf form (the paper's Eq. 1): the
#: multiplied mask lets the image through in softmax's denominator.
STEPS = {
    "ViT": VIT,
    "SwiGLU": {"ffn": "swiglu"},
    "RMSNorm": {"norm": "rms"},
    "causal, leading class token": {"mask": "additive"},
    "modified mask": {"mask": "modified"},
    "class token last": {"mask": "multiplied", "class_token": "last"},
    "RoPE for learned positions": {"positions": "rope"},
    "both": {"positions": "both"},
}
BEFORE = {"mixup": 0.8, "cutmix": 1.0, "soft_mask": "none", "soft_mask_epochs": 0.0}
WITHOUT_SOFT_MASK = {"soft_mask": "none", "soft_mask_epochs": 0.0}


def rows(recipe: TrainRecipe) -> dict[str, TrainRecipe]:
    """A recipe for each row."""
    made, network = {}, dict(recipe.model)
    for name, change in STEPS.items():
        network |= change
        made[name] = recipe.override(**BEFORE, model=tuple(network.items()))
    made["iLLaMA without soft mask"] = recipe.override(**WITHOUT_SOFT_MASK)
    made["iLLaMA"] = recipe
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="cifar10-scratch")
    parser.add_argument("--data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--patch-size", type=int, help="another than the recipe's: larger ones are quicker")
    parser.add_argument("--soft-mask-epochs", type=float, help="of the rows that have a soft mask")
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("illama-out/roadmap"))
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    recipe = TrainRecipe.read(options.recipe).override(epochs=options.epochs, soft_mask_epochs=options.soft_mask_epochs)
    if options.patch_size:
        recipe = recipe.override(model=tuple({**dict(recipe.model), "patch_size": options.patch_size}.items()))
    made = rows(recipe)
    print(f"{options.recipe}, {recipe.epochs} epochs\n\n| step | top-1 % | loss |\n| --- | --- | --- |", flush=True)
    for number, name in enumerate(made):
        if options.rows and name not in options.rows:
            continue
        figures = illama_deploy.train(
            made[name],
            data=options.data,
            out=options.out / f"{number}-{name.replace(' ', '-').replace(',', '')}",
            micro_batch=options.micro_batch,
            workers=options.workers,
            compile=options.compile,
            resume=True,
        ).figures
        print(f"| {name} | {figures['top1']:.2f} | {figures['mean_loss']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
