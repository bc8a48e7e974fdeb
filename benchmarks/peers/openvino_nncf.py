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


def make_compressed(group: int, tuned: bool, inputs: Inputs, folder: Path) -> Path:
    import nncf
    import openvino as ov

    images = np.load(inputs.calibration)
    options = {"dataset": nncf.Dataset([images[i : i + 1] for i in range(len(images))]), "awq": True,
               "scale_estimation": True, "subset_size": 128} if tuned else {}  # fmt: skip
    model = nncf.compress_weights(
        ov.Core().read_model(inputs.onnx), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=group, all_layers=True,
        **options,
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
    _case("nncf-int4", "compress_weights INT4_SYM, group 64", "W4A16", partial(make_compressed, 64, False)),
    _case("nncf-int4-tuned", "compress_weights INT4_SYM, group 64, AWQ, scale estimation", "W4A16",
          partial(make_compressed, 64, True)),
]  # fmt: skip
