"""NNCF, run by OpenVINO."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from .case import Case, Inputs


def make_static(device: str, inputs: Inputs, folder: Path) -> Path:
    import nncf
    import openvino as ov

    images = np.load(inputs.calibration)
    model = nncf.quantize(
        ov.Core().read_model(inputs.onnx), nncf.Dataset([images[i : i + 1] for i in range(len(images))]),
        subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER, target_device=nncf.TargetDevice[device],
    )  # fmt: skip
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def make_compressed(inputs: Inputs, folder: Path) -> Path:
    import nncf
    import openvino as ov

    model = nncf.compress_weights(
        ov.Core().read_model(inputs.onnx), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64, all_layers=True
    )
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def make_tuned(inputs: Inputs, folder: Path) -> Path:
    """AWQ and scale estimation, from a torch program.

    From the ONNX file, whose weights are [in, out], NNCF 3.4.0's scale estimation destroys the network (top-1 10.00 %;
    one quantized layer is enough, AWQ alone does no harm). Why was not found out; converted from torch, it works.
    """
    import nncf
    import openvino as ov
    import torch

    import illama_deploy

    images = np.load(inputs.calibration)
    batch = {"images_BCHW": {0: torch.export.Dim("batch")}}
    network = illama_deploy.load_checkpoint(inputs.checkpoint)
    program = torch.export.export(network, (torch.from_numpy(images[:2]),), dynamic_shapes=batch, strict=True)
    model = nncf.compress_weights(
        ov.convert_model(program), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64, all_layers=True,
        dataset=nncf.Dataset([images[i : i + 1] for i in range(len(images))]), subset_size=len(images), awq=True,
        scale_estimation=True,
    )  # fmt: skip
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def make_float(inputs: Inputs, folder: Path) -> Path:
    import openvino as ov

    ov.save_model(ov.Core().read_model(inputs.onnx), folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def _case(name: str, method: str, format_: str, make: object) -> Case:
    packages = ("openvino",) if format_ == "float32" else ("nncf", "openvino")
    tool = "OpenVINO" if format_ == "float32" else "NNCF"
    return Case(f"openvino-{name}", tool, packages, method, format_, "openvino", make)  # type: ignore[arg-type]


CASES = [
    _case("float", "the float ONNX file, not quantized", "float32", make_float),
    _case("nncf-any", "TRANSFORMER, default device", "W8A8", partial(make_static, "ANY")),
    _case("nncf-spr", "TRANSFORMER, CPU_SPR", "W8A8", partial(make_static, "CPU_SPR")),
    _case("nncf-int4", "compress_weights INT4_SYM, group 64", "W4A16", make_compressed),
    _case("nncf-int4-tuned", "INT4_SYM, group 64, AWQ, scale estimation; converted from torch¹", "W4A16", make_tuned),
]
