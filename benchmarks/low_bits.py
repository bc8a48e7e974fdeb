"""What each rewrite and rounding method is worth at low bits: top-1, agreement and logit SQNR against float, in torch.

    python benchmarks/low_bits.py ../shared [--calib N] [--images N] [--only W4A4 W4A8 ...] [--methods ... | --ablation]

Prints the rows of the tables in docs/low_bits.md as they are done. `--ablation` takes the shipped recipe apart: one
rewrite less, or one more. Calibration images are a fixed draw of the training images, test images the first of the test
split.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

import illama_deploy
from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.data import Loader, open_data
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe

EXACT = ("fold_norms", "fold_attention_scale", "class_token_last_block")
SMOOTH = (*EXACT, "smooth_norms", "smooth_swiglu")
ROTATE = (*EXACT, "rotate_residual", "rotate_values", "smooth_swiglu")


def without(name: str) -> tuple[str, ...]:
    """The shipped low-bit recipes' rewrites but one."""
    return tuple(rewrite for rewrite in ROTATE if rewrite != name)


FORMATS = ("W8A8", "W4A8", "W4A4", "W3A3", "W4A16-g64", "W2A16")
METHODS = {
    f"{rounding}, {name}": {"rounding": rounding, "rewrites": rewrites}
    for name, rewrites in (("smoothing", SMOOTH), ("rotations", ROTATE))
    for rounding in ("nearest", "gptq", "gptaq")
}
#: The shipped recipe's rounding with other rewrites; those of W4A4 and W3A3 are "with R4", those of the other low-bit
#: recipes the first. Order matters for use, not for exactness: pairs before R3.
ABLATION = {
    name: {"rewrites": rewrites}
    for name, rewrites in {
        "R1, R2 and smoothing": ROTATE,
        "no rewrites but folding": EXACT,
        "without R1": without("rotate_residual"),
        "without R2": without("rotate_values"),
        "without smoothing": without("smooth_swiglu"),
        "only R1": (*EXACT, "rotate_residual"),
        "only R2": (*EXACT, "rotate_values"),
        "only smoothing": (*EXACT, "smooth_swiglu"),
        "searched alpha": (*without("smooth_swiglu"), "search_smooth_swiglu"),
        "searched alpha, norms too": (*without("smooth_swiglu"), "search_smooth_swiglu", "search_smooth_norms"),
        "with rotary pairs": (*ROTATE, "scale_rotary_pairs"),
        "with R3": (*ROTATE, "rotate_qk_online"),
        "with rotary pairs and R3": (*ROTATE, "scale_rotary_pairs", "rotate_qk_online"),
        "with R4": (*ROTATE, "rotate_swiglu_online"),
        "with R4, searched alpha": (*without("smooth_swiglu"), "rotate_swiglu_online", "search_smooth_swiglu"),
        "with R4, without smoothing": (*without("smooth_swiglu"), "rotate_swiglu_online"),
        "with R3 and R4": (*ROTATE, "rotate_qk_online", "rotate_swiglu_online"),
    }.items()
}


@torch.inference_mode()
def run(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits, 100 images at a time."""
    return torch.cat([model(chunk) for chunk in images.split(100)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("--calib", type=int, default=1024)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--only", nargs="+", default=FORMATS)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *ABLATION], metavar="METHOD")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    checkpoint = options.shared / "checkpoints" / "illama-tiny-cifar10.pth"
    data = f"parquet:{options.shared / 'data' / 'cifar10'}"
    source = read_checkpoint(checkpoint)
    loader = Loader(
        open_data(data, None, role="evaluate"), source.preprocessing, classes=10, indices=range(options.images)
    )
    batches = list(loader)
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    reference = run(source.build().eval(), images)
    correct = reference.argmax(1) == labels
    print(f"Float: {100 * correct.float().mean():.2f} % of {len(labels)} images.\n")
    print("| format | method | drop, points | agreement % | SQNR dB | s |\n| --- | --- | --- | --- | --- | --- |")
    for name in options.only:
        for method in options.methods or (ABLATION if options.ablation else METHODS):
            changes = (METHODS | ABLATION)[method]
            recipe = Recipe.for_format(name).override(**changes, calib_images=options.calib, seed=options.seed)
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                artifact = illama_deploy.quantize(checkpoint, recipe=recipe, data=data, out=Path(folder) / "quantized")
                seconds = time.perf_counter() - start
            logits = run(artifact.model, images)
            drop = 100 * float(correct.float().mean() - (logits.argmax(1) == labels).float().mean())
            agreement = 100 * float((logits.argmax(1) == reference.argmax(1)).float().mean())
            sqnr = sqnr_db(float(reference.square().sum()), float((logits - reference).square().sum()))
            print(f"| {name} | {method} | {drop:.2f} | {agreement:.2f} | {sqnr:.1f} | {seconds:.0f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
