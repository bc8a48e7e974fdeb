"""The same model and the same images for everybody, written once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .case import IMAGES, SEED, Inputs


def write_inputs(inputs: Inputs) -> None:
    """Write calibration images, test images, labels, the float ONNX file, and the float logits in torch."""
    import torch

    from illama_deploy.checkpoint import read_checkpoint
    from illama_deploy.data import Loader, open_data, sample_indices

    checkpoint = read_checkpoint(inputs.checkpoint)

    def read(role: str, indices: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
        source = open_data(inputs.data, role=role)  # type: ignore[arg-type]
        batches = list(Loader(source, checkpoint.preprocessing, classes=checkpoint.config.classes, indices=indices))
        return torch.cat([b.images for b in batches]).numpy(), torch.cat([b.labels for b in batches]).numpy()

    total = len(open_data(inputs.data, role="calibrate"))
    drawn = sample_indices(total, IMAGES, SEED)
    np.save(inputs.folder / "indices.npy", np.array(drawn))
    np.save(inputs.calibration, read("calibrate", drawn)[0])
    images, labels = read("evaluate", None)
    np.save(inputs.folder / "images.npy", images)
    np.save(inputs.folder / "labels.npy", labels)
    model = checkpoint.build()
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in torch.from_numpy(images).split(50)])
    np.save(inputs.folder / "logits.npy", logits.numpy())
    torch.onnx.export(
        model, (torch.from_numpy(images[:2]),), str(inputs.onnx), dynamo=True, opset_version=21, external_data=False,
        input_names=["images"], output_names=["logits"], dynamic_shapes={"images_BCHW": {0: "batch"}},
    )  # fmt: skip
