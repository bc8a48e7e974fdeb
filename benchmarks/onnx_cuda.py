"""Our files for ONNX Runtime's CUDA provider against the plainly exported network, taking turns in one process.

    python benchmarks/onnx_cuda.py tiny 1 8 32        (or: base 1 8 32) [--provider CPUExecutionProvider]

Random weights at 224 px. The peer is `torch.onnx.export` of the float network, in float32 (TF32 off and on) and of its
float16 copy; torch runs that copy eagerly, too. All take and give host arrays: both copies are timed.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from geometries import Run, compare, float_network, logit_sqnr, quantized_network, random_network, write
from torch import nn


def exported(model: nn.Module, images: torch.Tensor, path: Path) -> Path:
    torch.onnx.export(
        model, (images[:2],), str(path), dynamo=True, opset_version=21, input_names=["images"],
        dynamic_shapes={"images_BCHW": {0: "batch"}}, external_data=False,
    )  # fmt: skip
    return path


def session(path: Path, provider: str, *, tf32: bool = False, half: bool = False) -> Run:
    """Raises RuntimeError where the session does not get the provider."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    settings = [{"use_tf32": int(tf32)}] if provider == "CUDAExecutionProvider" else [{}]
    made = ort.InferenceSession(str(path), options, providers=[provider], provider_options=settings)
    if made.get_providers()[0] != provider:
        raise RuntimeError(f"{made.get_providers()} instead of {provider}")
    dtype = np.float16 if half else np.float32
    return lambda x: made.run(None, {"images": x.astype(dtype)})[0].astype(np.float32)


def eager(model: nn.Module) -> Run:
    """float16 in torch on the GPU."""
    network = copy.deepcopy(model).half().cuda()

    @torch.inference_mode()
    def run(x: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(x).cuda().half()).float().cpu().numpy()

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("batches", nargs="+", type=int)
    parser.add_argument("--provider", default="CUDAExecutionProvider")
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    provider = options.provider
    model, images = random_network(options.size)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{where}; onnxruntime {ort.__version__}, torch {torch.__version__}; illama_{options.size}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = exported(model, images, folder / "plain.onnx")
        plain_half = exported(copy.deepcopy(model).half(), images.half(), folder / "plain16.onnx")
        half = write(float_network(model), "onnx-cuda", folder / "half.onnx")
        w4 = write(quantized_network(model, images, "W4A16"), "onnx-cuda", folder / "w4.onnx")
        runs = {
            "exported float32": session(plain, provider),
            "exported TF32": session(plain, provider, tf32=True),
            "exported float16": session(plain_half, provider, half=True),
            "ours W4A16": session(w4, provider),
            "ours float16": session(half, provider),
        }
        if torch.cuda.is_available():
            runs = {"torch eager float16": eager(model), **runs}
        sizes = {path.stem: f"{path.stat().st_size / 1e6:.1f} MB" for path in (plain, plain_half, half, w4)}
        print(sizes, {key: f"{logit_sqnr(run, model):.1f} dB" for key, run in runs.items()}, flush=True)
        for batch in options.batches:
            print(f"batch {batch}: time / ours float16 {compare(runs, batch, options.seconds)}", flush=True)


if __name__ == "__main__":
    main()
