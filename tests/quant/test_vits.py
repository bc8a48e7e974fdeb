"""Quantizing timm's networks: every way of rounding, every recipe, and what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import illama_deploy
from illama_deploy.quant import load_quantized
from illama_deploy.targets.open import open_artifact

from ..networks import hub_folder

pytestmark = pytest.mark.slow

#: One of each kind of outlet, entry, FFN and rotary embedding.
NAMES = {
    "class token": ("vit_tiny_patch16_224", {}),
    "both tokens": ("deit_tiny_distilled_patch16_224", {}),
    "mean of norms": ("vit_base_patch16_siglip_gap_224", {}),
    "norm of the mean": ("eva02_tiny_patch14_224", {}),
    "entry": ("vit_base_patch32_clip_quickgelu_224", {}),
    "inner norms": ("eva02_base_patch16_clip_224", {}),
    "registers": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "mixed": ("vit_small_patch16_rope_mixed_ape_224", {}),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of noise."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(32):
        place = folder / f"kind {i % 2}"
        place.mkdir(exist_ok=True)
        pixels = np.kron(rng.uniform(0, 255, (8, 8, 3)), np.ones((5, 5, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", list(NAMES))
@pytest.mark.parametrize("recipe", ["w8a8", "w4a4"])
def test_quantized_is_near_and_comes_back(tmp_path: Path, images: Path, kind: str, recipe: str) -> None:
    name, arguments = NAMES[kind]
    hub_folder(tmp_path / "hub", name, classes=2, **arguments)
    made = illama_deploy.quantize(
        tmp_path / "hub", recipe=recipe, data=f"folder:{images}", calib_images=32, out=tmp_path / "q"
    )
    # Four bits of rotated random weights; each family is far above what a wrong rewrite leaves (about 0 dB).
    assert made.manifest["logit_sqnr_db"] > (25 if recipe == "w8a8" else 5)
    again = load_quantized(tmp_path / "q")
    x = torch.randn(2, 3, *again.model.config.image_size)
    with torch.no_grad():
        torch.testing.assert_close(again.model(x), made.model(x), rtol=0, atol=0)
    assert not any(isinstance(module, torch.nn.LayerNorm) for _, module in again.model.named_modules()) or (
        kind == "inner norms"
    )


@pytest.mark.parametrize("target", ["onnx-cpu", "openvino"])
@pytest.mark.parametrize("kind", list(NAMES))
def test_export_has_the_same_integers(tmp_path: Path, images: Path, kind: str, target: str) -> None:
    name, arguments = NAMES[kind]
    hub_folder(tmp_path / "hub", name, classes=2, **arguments)
    illama_deploy.quantize(tmp_path / "hub", bits=8, data=f"folder:{images}", calib_images=32, out=tmp_path / "q")
    result = illama_deploy.export(tmp_path / "q", target=target, out=tmp_path / "x")
    proof = result.proof
    assert proof is not None
    assert not proof.missing
    x = np.random.default_rng(1).standard_normal((40, 3, 32, 32), dtype=np.float32)
    simulated, run = (open_artifact(path).run(x) for path in (tmp_path / "q", result.model))
    assert (simulated.argmax(1) == run.argmax(1)).mean() >= 0.97
    error = np.square(simulated - run).sum() / np.square(simulated).sum()
    assert error < 1e-3  # a rounding that turns here and there
    assert result.float_model is not None
    original, deployed = (open_artifact(path).run(x) for path in (tmp_path / "hub", result.float_model))
    np.testing.assert_allclose(deployed, original, rtol=1e-3, atol=1e-3)
