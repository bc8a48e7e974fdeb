"""torchao: PT2E with the X86 quantizer, and weight-only configurations, compiled by inductor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case, Inputs


def load(inputs: Inputs) -> Any:
    import illama_deploy

    return illama_deploy.load_checkpoint(inputs.checkpoint)


def save_exported(model: Any, images: Any, path: Path) -> Path:
    """Write a converted graph without the float weights that it no longer uses, which the module still holds."""
    import torch

    used = {node.target for node in model.graph.nodes if node.op == "get_attr"}
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        if name not in used:
            parent, _, leaf = name.rpartition(".")
            delattr(model.get_submodule(parent), leaf)
    batch = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(model, (images[:2].clone(),), dynamic_shapes=batch), path)
    return path


def make_pt2e(dynamic: bool, inputs: Inputs, folder: Path) -> Path:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    images = torch.from_numpy(np.load(inputs.calibration))
    batch = {"images_BCHW": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(load(inputs), (images[:2],), dynamic_shapes=batch, strict=True).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic))
    with torch.no_grad():
        model = prepare_pt2e(exported, quantizer)
        for part in images.split(32):
            model(part)
        model = convert_pt2e(model)
    return save_exported(model, images, folder / "model.pt2")


def make_weights(bits: int, inputs: Inputs, folder: Path) -> Path:
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_

    model = load(inputs)
    config = Int8WeightOnlyConfig() if bits == 8 else IntxWeightOnlyConfig(torch.int4, PerGroup(64))
    quantize_(model, config)
    for module in model.modules():  # quantize_ leaves a partial there, which can't be pickled
        module.__dict__.pop("extra_repr", None)
    torch.save(model, folder / "model.pt")
    return folder / "model.pt"


def make_float(inputs: Inputs, folder: Path) -> Path:
    import torch

    torch.save(load(inputs), folder / "model.pt")
    return folder / "model.pt"


def _case(name: str, method: str, format_: str, make: Any) -> Case:
    tool, packages = ("torch", ("torch",)) if format_ in ("float32", "bf16") else ("torchao", ("torchao", "torch"))
    return Case(f"torch-{name}", tool, packages, method, format_, "inductor", make)


CASES = [
    _case("float", "not quantized", "float32", make_float),
    _case("bf16", "weights and activations in bfloat16", "bf16", make_float),
    _case("pt2e", "PT2E, X86InductorQuantizer, static", "W8A8", partial(make_pt2e, False)),
    _case("pt2e-dynamic", "PT2E, X86InductorQuantizer, dynamic", "W8A8-dynamic", partial(make_pt2e, True)),
    _case("int8-weights", "Int8WeightOnlyConfig", "W8A16", partial(make_weights, 8)),
    _case("int4-weights", "IntxWeightOnlyConfig, int4, group 64 (stored as int8)", "W4A16", partial(make_weights, 4)),
]
