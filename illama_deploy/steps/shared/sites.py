"""Sites of a quantized checkpoint, and how much each costs by itself; needs the float checkpoint and its data."""

from __future__ import annotations

import struct
from itertools import islice
from pathlib import Path
from typing import Any

from ...calib import rebatch
from ...data import Loader
from ...errors import DeployError
from ...progress import track
from ...quant import QuantizedArtifact, SiteSensitivity, load_quantized, measure_sensitivity
from ...quant.artifact import WEIGHTS
from .calibrated import rewrite_float
from .images import calibration_source
from .load_checkpoint import read_source

__all__ = ["SENSITIVITY_IMAGES", "describe_sites"]

#: Calibration images that sensitivity is measured on; a ratio of sums over all their logits needs no more.
SENSITIVITY_IMAGES = 16


def describe_sites(path: Path, images: int = SENSITIVITY_IMAGES) -> dict[str, Any]:
    """What is known of every site of a quantized checkpoint, for a report and for `inspect`.

    Args:
        images: to measure sensitivity and clipping on; with 0 neither is.

    Returns:
        `manifest_sha256`, `format`, `logit_sqnr_db`, `images`, `not_measured` (why there is no sensitivity, or None)
        and `sites`, each with `name`, `format`, `threshold` and `largest` (of its inputs' magnitudes, lists),
        `sqnr_db`, `bytes`, and where measured `alone_db`, `noise_share` and `clipped`.
    """
    artifact = load_quantized(path)
    reason: str | None = "not asked for" if images == 0 else None
    found: dict[str, SiteSensitivity] = {}
    if images:
        try:
            found = _measure(artifact, images)
        except DeployError as error:
            reason = error.what.rstrip(".")
    sizes = _site_bytes(path / WEIGHTS)
    sites = []
    for name, site in artifact.manifest["sites"].items():
        inputs = site["inputs"].values()
        measured = found.get(name)
        sites.append(
            {
                "name": name,
                "format": site["format"],
                "threshold": [values["threshold"] for values in inputs],
                "largest": [values["max"] for values in inputs],
                "sqnr_db": site["sqnr_db"],
                "bytes": sum(size for key, size in sizes.items() if key.startswith(f"{name}.")),
                "alone_db": None if measured is None else measured.alone_db,
                "noise_share": None if measured is None else measured.noise_share,
                "clipped": None if measured is None else measured.clipped,
            }
        )
    return {
        "manifest_sha256": artifact.manifest_sha256,
        "format": artifact.manifest["format"],
        "logit_sqnr_db": artifact.manifest["logit_sqnr_db"],
        "images": images if reason is None else 0,
        "not_measured": reason,
        "sites": sites,
    }


def _measure(artifact: QuantizedArtifact, images: int) -> dict[str, SiteSensitivity]:
    """Make the float network that was quantized once more, and quantize it site by site.

    Raises:
        DeployError: the checkpoint or the data is not there, or not the same.
    """
    source = read_source(artifact, None, "Put it back where it was.")
    loader = Loader(
        calibration_source(artifact, what="Sensitivity"),
        artifact.preprocessing,
        classes=artifact.model.config.label_classes,
        labels=False,
        indices=artifact.manifest["data"]["indices"],
        skip_broken=True,
    )
    model = source.build()
    rewrite_float(model, artifact.recipe, artifact.formats, loader)
    batches = rebatch((batch.images for batch in loader), min(images, 32))
    few = list(islice(batches, -(-images // 32)))
    return measure_sensitivity(
        model,
        artifact.model,
        few,
        lambda names: track(names, "Quantizing one site at a time", len(artifact.formats)),
    )


def _site_bytes(weights: Path) -> dict[str, int]:
    """Bytes of each tensor of a safetensors file, from its header."""
    import json

    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {key: entry["data_offsets"][1] - entry["data_offsets"][0] for key, entry in header.items()}
