"""Intel Neural Compressor 3 (PyTorch), compiled by inductor."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .case import Case, Inputs
from .torchao import load, save_exported


def make_static(inputs: Inputs, folder: Path) -> Path:
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    images = torch.from_numpy(np.load(inputs.calibration))
    batch = {"images_BCHW": {0: torch.export.Dim.AUTO}}
    exported = export(load(inputs), example_inputs=(images[:2],), dynamic_shapes=batch)
    model = prepare(exported, quant_config=get_default_static_config(), example_inputs=(images[:2],))
    with torch.no_grad():
        for part in images.split(32):
            model(part)
        model = convert(model)
    return save_exported(model, images, folder / "model.pt2")


def make_rtn(inputs: Inputs, folder: Path) -> Path:
    import torch
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    model = convert(prepare(load(inputs), RTNConfig(bits=4, group_size=64)))
    torch.save(model, folder / "model.pt")
    return folder / "model.pt"


PACKAGES = ("neural-compressor", "torch")
CASES = [
    Case("inc-static", "Neural Compressor", PACKAGES, "PT2E static, defaults", "W8A8", "inductor", make_static),
    Case("inc-rtn", "Neural Compressor", PACKAGES, "RTN int4, group 64", "W4A16", "inductor", make_rtn),
]
