"""onnxruntime.quantization: static Q/DQ, dynamic, and 4-bit weights (MatMulNBits)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case, Inputs

GEMMS = ["Conv", "MatMul", "Gemm"]
#: Histogram calibrators keep every activation of what they are fed at once (20 GB for 512 images), so they are
#: fed this many at a time.
STRIDE = 32


def reader(images: np.ndarray, batch: int) -> Any:
    """A CalibrationDataReader; made here so that nothing is imported before it is used."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        rest: Iterator[int] = iter(range(0, len(images), batch))

        def get_next(self) -> dict[str, np.ndarray] | None:
            i = next(self.rest, None)
            return None if i is None else {"images": images[i : i + batch]}

        def __len__(self) -> int:
            return len(images) // batch

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(range(start_index * batch, end_index * batch, batch))

        def rewind(self) -> None:
            self.rest = iter(range(0, len(images), batch))

    return Reader()


def prepared(inputs: Inputs, folder: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / "prepared.onnx"
    quant_pre_process(str(inputs.onnx), str(path), skip_symbolic_shape=True)
    return path


def make_static(calibration: str, only: list[str] | None, inputs: Inputs, folder: Path) -> Path:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        str(prepared(inputs, folder)), str(folder / "model.onnx"), reader(np.load(inputs.calibration), 1),
        per_channel=True, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[calibration], op_types_to_quantize=only,
        extra_options={"CalibStridedMinMax": STRIDE},
    )  # fmt: skip
    return folder / "model.onnx"


def make_dynamic(inputs: Inputs, folder: Path) -> Path:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It transposes the head's weight and stumbles over the shape that the exporter noted for it, so notes go first.
    model = onnx.load(prepared(inputs, folder))
    del model.graph.value_info[:]
    onnx.save(model, folder / "unnoted.onnx")
    # Without the convolution: ConvInteger is slow, and it is one small layer.
    quantize_dynamic(
        str(folder / "unnoted.onnx"), str(folder / "model.onnx"), per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )  # fmt: skip
    return folder / "model.onnx"


def make_nbits(block: int, level: int, inputs: Inputs, folder: Path) -> Path:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, accuracy_level=level or None)
    quantizer = MatMulNBitsQuantizer(onnx.load(prepared(inputs, folder)), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / "model.onnx"))
    return folder / "model.onnx"


def make_float(inputs: Inputs, folder: Path) -> Path:
    return Path(shutil.copy(inputs.onnx, folder / "model.onnx"))


def case(name: str, method: str, format_: str, make: Any, family: str = "") -> Case:
    packages = ("onnxruntime", "onnxruntime-gpu")
    return Case(f"ort-{name}", "ONNX Runtime", packages, method, format_, "onnxruntime", make, family=family)


CASES = [
    case("float", "torch.onnx.export, not quantized", "float32", make_float),
    *(
        case(f"static-{kind}-{c}", f"static Q/DQ U8S8, per channel, {what}, {c}", "W8A8",
             partial(make_static, c, only), f"static Q/DQ, {what}")
        for kind, what, only in (("all", "all operators", None), ("gemms", "only Conv, MatMul, Gemm", GEMMS))
        for c in ("MinMax", "Percentile", "Entropy")
    ),
    case("dynamic", "dynamic, per channel, MatMul and Gemm", "W8A8-dynamic", make_dynamic),
    case("nbits-64", "MatMulNBits, block 64, float sums", "W4A16", partial(make_nbits, 64, 0)),
    case("nbits-128", "MatMulNBits, block 128, float sums", "W4A16", partial(make_nbits, 128, 0)),
    case("nbits-64-int8", "MatMulNBits, block 64, accuracy_level 4 (int8 sums)", "W4A16", partial(make_nbits, 64, 4)),
]  # fmt: skip
