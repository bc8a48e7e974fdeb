"""Accuracy of a network in training, over all processes; in float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data import Batch, Scenes
from ..model.network import Network
from ..training import Processes
from .segmentation import PixelAccuracy, Sliding, predict

__all__ = ["measure_classes", "measure_pixels"]

#: Windows at a time.
WINDOWS = 8


@torch.no_grad()
def measure_classes(model: Network, held_out: Iterable[Batch], processes: Processes) -> dict[str, Any]:
    """Figures on held-out images, each process having its share: `top1` (percent), `nll` and `images`."""
    model.to(processes.device).eval()
    sums = torch.zeros(3, dtype=torch.float64, device=processes.device)
    for batch in held_out:
        logits, labels = model(batch.images.to(processes.device)), batch.labels.to(processes.device)
        sums[0] += (logits.argmax(1) == labels).sum()
        sums[1] += F.cross_entropy(logits, labels, reduction="sum")
        sums[2] += len(labels)
    correct, nll, images = processes.add(sums).tolist()
    return {"top1": 100 * correct / images, "nll": nll / images, "images": int(images)}


@torch.no_grad()
def measure_pixels(model: Network, scenes: Scenes, processes: Processes) -> dict[str, Any]:
    """Figures of `PixelAccuracy` on held-out scenes, each process having its share."""
    model.to(processes.device).eval()

    def run(images_BCHW: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images_BCHW).to(processes.device)).cpu().numpy()

    accuracy = PixelAccuracy(scenes.classes)
    for scene in scenes.scenes():
        accuracy.update(predict([run], scene, Sliding(), WINDOWS)[0], scene.labels)
    counts = torch.from_numpy(accuracy.total.astype(np.float64)).to(processes.device)
    images = processes.add(torch.tensor([float(accuracy.images)], dtype=torch.float64, device=processes.device))
    everything = PixelAccuracy(scenes.classes, [processes.add(counts).cpu().numpy().astype(np.int64)])
    return {**everything.to_dict(), "images": int(images)}
