"""timm's networks from a hub's folder to integer kernels: quantize, export to ONNX Runtime and OpenVINO, agreement.

    python benchmarks/vits_int8.py --out illama-out/vits-int8

Random weights with every parameter perturbed, images of ten patterns under noise; small networks at their own size,
others at four patches a side. Every export proves its kernels itself; torch and the file are compared on the same
images: by the class they choose, or, of networks without a classifier, by the cosine of their features. Run again, it
goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import illama_deploy
from illama_deploy.targets.open import open_artifact

#: Names, and whether each runs at its own size.
NETWORKS = {
    "vit_tiny_patch16_224": True,
    "vit_small_patch32_224": True,
    "vit_small_patch16_224": False,
    "vit_base_patch16_224": False,
    "vit_large_patch14_224": False,
    "vit_base_patch16_224_miil": False,
    "deit_tiny_patch16_224": True,
    "deit_tiny_distilled_patch16_224": True,
    "deit_small_distilled_patch16_224": False,
    "deit3_small_patch16_224": False,
    "deit3_base_patch16_224": False,
    "vit_small_patch14_dinov2": False,
    "vit_small_patch14_reg4_dinov2": False,
    "vit_base_patch14_reg4_dinov2": False,
    "vit_xsmall_patch16_clip_224": True,
    "vit_base_patch16_clip_224": False,
    "vit_base_patch32_clip_quickgelu_224": False,
    "vit_base_patch16_siglip_gap_224": False,
    "vit_base_patch32_siglip_gap_256": False,
    "vit_medium_patch16_gap_256": False,
    "vit_betwixt_patch16_reg1_gap_256": False,
    "beit3_base_patch16_224": False,
    "flexivit_small": False,
    "eva02_tiny_patch14_224": True,
    "eva02_small_patch14_336": False,
    "eva02_base_patch14_224": False,
    "eva02_base_patch16_clip_224": False,
    "vit_small_patch16_dinov3": False,
    "vit_small_plus_patch16_dinov3": False,
    "vit_base_patch16_dinov3_qkvb": False,
    "vit_small_patch16_rope_224": False,
    "vit_small_patch16_rope_mixed_224": False,
    "vit_base_patch16_rope_ape_224": False,
    "vit_mediumd_patch16_rope_reg1_gap_256": False,
    "vit_pe_spatial_tiny_patch16_512": False,
}
TARGETS = ("onnx-cpu", "openvino")
IMAGES, CALIBRATION, CLASSES = 200, 60, 10


def noise(size: tuple[int, int], count: int, seed: int) -> torch.Tensor:
    """Images of ten kinds, one after the other: a pattern of each kind and noise, float32 [count, 3, H, W]."""
    patterns = torch.randn(CLASSES, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    kinds = patterns[torch.arange(count) % CLASSES]
    smooth = torch.nn.functional.interpolate(kinds, size, mode="bicubic")
    return smooth + 0.4 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(seed))


def make_images(folder: Path) -> None:
    """The same as files, for calibration."""
    for i, image in enumerate(noise((128, 128), CALIBRATION, seed=1)):
        place = folder / f"kind {i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = (image.permute(1, 2, 0) * 55 + 128).clamp(0, 255).byte().numpy()
        Image.fromarray(pixels).save(place / f"{i:03}.png")


@torch.no_grad()
def make_hub(name: str, own_size: bool, folder: Path) -> None:
    """A folder as timm writes it, of a network whose every parameter is moved from where it starts. Where there is a
    classifier, it knows the means of the ten kinds, so that logits are as far apart as those of a trained network."""
    torch.manual_seed(0)
    small = timm.create_model(name, depth=1)
    arguments: dict[str, Any] = {} if own_size else {"img_size": 4 * small.patch_embed.patch_size[0]}
    if small.num_classes:
        arguments["num_classes"] = CLASSES
    model: Any = timm.create_model(name, **arguments).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * (0.1 if parameter.ndim == 1 else 0.02))
    size = tuple(model.patch_embed.img_size)
    if small.num_classes:
        images = noise(size, 5 * CLASSES, seed=2)
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        means = features.view(-1, CLASSES, features.shape[1]).mean(0)
        apart = means - means.mean(0)
        weight = apart / apart.square().sum(1).mean().sqrt() * 3
        for head in (model.head, getattr(model, "head_dist", model.head)):
            head.weight.copy_(weight)
            head.bias.copy_(-(weight * (means.mean(0) + apart / 2)).sum(1))
    model.pretrained_cfg.update(input_size=(3, *size), num_classes=model.num_classes)
    save_for_hf(model, folder, model_args={"img_size": size}, safe_serialization=True)


def agreement(one: Path, other: Path, images: np.ndarray, features: bool) -> float:
    """Percent of images with the same class, or the least cosine of features."""
    outputs = []
    for path in (one, other):
        runtime = open_artifact(path)
        outputs.append(np.concatenate([runtime.run(part) for part in np.array_split(images, len(images) // 10)]))
    a, b = (x.astype(np.float64) for x in outputs)
    if not features:
        return 100.0 * float((a.argmax(1) == b.argmax(1)).mean())
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def row(name: str, own_size: bool, out: Path) -> dict[str, Any]:
    """All of it for one network."""
    place = out / name
    shutil.rmtree(place, ignore_errors=True)
    make_hub(name, own_size, place / "hub")
    data = f"folder:{out / 'images'}"
    artifact = illama_deploy.quantize(place / "hub", bits=8, data=data, calib_images=CALIBRATION, out=place / "w8a8")
    config: Any = artifact.model.config
    images = noise(config.image_size, IMAGES, seed=3)
    found: dict[str, Any] = {"network": name, "size": config.image_size[0], "features": config.features}
    found["sqnr"] = artifact.manifest["logit_sqnr_db"]
    for target in TARGETS:
        result = illama_deploy.export(place / "w8a8", target=target, out=place / target, float=False)
        record = json.loads((place / target / "export.json").read_text(encoding="utf-8"))
        found[target] = {
            "proof": record["proof"]["summary"],
            "agreement": agreement(place / "w8a8", result.model, images.numpy(), config.features),
        }
    shutil.rmtree(place)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("illama-out/vits-int8"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "images").exists():
        make_images(options.out / "images")
    record = options.out / "rows.jsonl"
    done = {json.loads(line)["network"] for line in record.read_text().splitlines()} if record.exists() else set()
    for name, own_size in NETWORKS.items():
        if name not in done:
            found = row(name, own_size, options.out)
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    print("| network | px | output | logit SQNR dB | ONNX Runtime | agrees | OpenVINO | agrees |")
    print("|" + " --- |" * 8)
    for line in record.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        cells = [found["network"], str(found["size"]), "features" if found["features"] else "classes"]
        cells.append(f"{found['sqnr']:.1f}")
        for target in TARGETS:
            share = found[target]["agreement"]
            cells.append(found[target]["proof"].split(";")[0])
            cells.append(f"cosine {share:.5f}" if found["features"] else f"{share:.1f} %")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
