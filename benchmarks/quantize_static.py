"""Our INT8 graph against ONNX Runtime's own `quantize_static`, both in ONNX Runtime, taking turns in one process.

    python benchmarks/quantize_static.py tiny 1 16        (or: base 1 8) [--threads 2]

Random weights at 224 px, 16 random images for calibration, one thread. The peer gets the exported torch model after
its own pre-processing pass, at its best settings: per channel, U8 activations, S8 weights, Q/DQ format.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from geometries import Run, compare, logit_sqnr, quantized_network, random_network, write
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


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


def session(path: Path, threads: int) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Otherwise one session's threads spin on while the next is timed: with two threads on two cores, all look alike.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads > 1:
        # One core each: woken on the core of the thread that wakes it, a thread first waits there. The calling thread
        # has the first core (`main`); cores count from 1 here.
        cores = ";".join(str(core) for core in range(2, threads + 1))
        options.add_session_config_entry("session.intra_op_thread_affinities", cores)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x})[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("batch", type=int, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    model, images = random_network(given.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = write(quantized_network(model, images), "onnx-cpu", folder / "ours.onnx")
        products = quantized_network(model, images, attention_products=True)
        runs = {
            "quantize_static": session(peer(model, images, folder), given.threads),
            "ours": session(ours, given.threads),
            "ours with --attention-products": session(write(products, "onnx-cpu", folder / "p.onnx"), given.threads),
        }
    print(
        f"onnxruntime {ort.__version__}, {given.size}, threads {given.threads}; logit SQNR: "
        + ", ".join(f"{n} {logit_sqnr(run, model):.1f} dB" for n, run in runs.items())
    )
    os.sched_setaffinity(0, {0})
    for batch in given.batch:
        result = compare(runs, batch, given.seconds)
        rounds = result.pop("rounds")
        ratios = ", ".join(f"{name} {r.value:.2f} ({r.low:.2f} to {r.high:.2f})" for name, r in result.items())
        print(f"batch {batch}, {rounds} rounds; with --attention-products it is so many times as fast as: {ratios}")


if __name__ == "__main__":
    main()
