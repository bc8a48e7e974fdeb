"""Our INT8 graph against ONNX Runtime's own `quantize_static`, both in ONNX Runtime, taking turns in one process.

    python benchmarks/quantize_static.py tiny 1 16        (or: base 1 8)

Random weights at 224 px, 16 random images for calibration, one thread. The peer gets the exported torch model after
its own pre-processing pass, at its best settings: per channel, U8 activations, S8 weights, Q/DQ format.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import timm
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import illama_deploy  # noqa: F401  (registers the models)
from illama_deploy.calib import collect_channel_maxima, collect_ranges, range_method
from illama_deploy.export.targets import TARGETS
from illama_deploy.measure import median_ratio
from illama_deploy.quant import find_sites, quantize_network, select_sites
from illama_deploy.recipe import Recipe
from illama_deploy.rewrites import apply_rewrites
from illama_deploy.rounding import nearest

SECONDS = 30


class Images(CalibrationDataReader):
    def __init__(self, images: torch.Tensor) -> None:
        self.batches = iter([{"images": part.numpy()} for part in images.split(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def peer(model: torch.nn.Module, images: torch.Tensor, folder: Path) -> Path:
    plain, prepared, quantized = (folder / f"{name}.onnx" for name in ("plain", "prepared", "quantized"))
    torch.onnx.export(
        model, (images[:2],), str(plain), dynamo=True, opset_version=21, input_names=["images"],
        dynamic_shapes={"images_BCHW": {0: "batch"}}, external_data=False,
    )  # fmt: skip
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(quantized), Images(images), per_channel=True, quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return quantized


def ours(model: torch.nn.Module, images: torch.Tensor, folder: Path) -> Path:
    recipe, network = Recipe(), copy.deepcopy(model)
    apply_rewrites(network, recipe.rewrites, partial(collect_channel_maxima, batches=[images]))
    sites = select_sites(find_sites(network), include=["*"], exclude=[], attention_products=False)
    histograms = collect_ranges(network, {site.name: site.inputs for site in sites}, [images])
    kind, method = recipe.number_format, range_method(recipe.range)
    thresholds = {name: method(histogram, kind.activations) for name, histogram in histograms.items()}
    quantize_network(network, sites, thresholds, kind, partial(nearest, dtype=kind.weights, clip=recipe.weight_clip))
    ir.save(TARGETS["onnx-cpu"].build(network), folder / "ours.onnx")
    return folder / "ours.onnx"


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    size, batches = sys.argv[1], [int(batch) for batch in sys.argv[2:]]
    torch.manual_seed(0)
    model = timm.create_model(f"illama_{size}").eval()
    images = torch.randn(16, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        sessions = [session(make(model, images, Path(folder))) for make in (peer, ours)]
    for batch in batches:
        x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
        times: list[list[float]] = [[], []]
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            for i in np.random.default_rng().permutation(2):
                start = time.perf_counter()
                sessions[i].run(None, {"images": x})
                times[i].append(time.perf_counter() - start)
        ratio = median_ratio(np.array(times[0]), np.array(times[1]))
        print(
            f"{size}, batch {batch}: {ratio.value:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f}), "
            f"{len(times[0])} rounds, onnxruntime {ort.__version__}"
        )


if __name__ == "__main__":
    main()
