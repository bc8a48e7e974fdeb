"""Our INT8 graphs of timm's networks against each runtime's own tools, all in turns in one process.

    pip install nncf onnxscript; python benchmarks/vits.py vit_tiny_patch16_224 onnx 1 8        (or: openvino)

At 224 px, random weights with every parameter perturbed, 16 random images for calibration. Peers get the exported
timm model. ONNX Runtime: `quantize_static` after its own pre-processing (per channel, U8 activations, S8 weights,
Q/DQ; all operators, or GEMMs alone) and `quantize_dynamic`; OpenVINO: NNCF, model type transformer, for both of its
CPU devices. Beside them the float file of that export, and ours. Logit SQNR on 8 other images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
from geometries import Run, compare, logit_sqnr, openvino_session, quantized_network, write
from quantize_static import Images, session

from illama_deploy.model.families import build_network
from illama_deploy.model.timm_vits import read_timm

SIZE = 224


def perturbed(name: str) -> torch.nn.Module:
    """A network of timm's at 224 px whose every parameter is moved from where it starts."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=SIZE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.1 if parameter.ndim == 1 else 0.02))
    return model


def exported(model: torch.nn.Module, images: torch.Tensor, folder: Path) -> Path:
    """The network as torch exports it."""
    path = folder / "plain.onnx"
    torch.onnx.export(
        model, (images[:2],), str(path), dynamo=True, opset_version=21, input_names=["images"],
        dynamic_shapes={"x": {0: "batch"}}, external_data=False, verbose=False,
    )  # fmt: skip
    return path


def onnx_peers(plain: Path, images: torch.Tensor, folder: Path) -> dict[str, Path]:
    """What ONNX Runtime's own quantization makes."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    made: dict[str, Path] = {}
    for label, only in (("quantize_static", None), ("quantize_static GEMMs", ["Conv", "MatMul", "Gemm"])):
        made[label] = folder / f"{label.replace(' ', '_')}.onnx"
        options: dict[str, Any] = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(
            str(prepared), str(made[label]), Images(images), per_channel=True, quant_format=QuantFormat.QDQ,
            op_types_to_quantize=only, **options,
        )  # fmt: skip
    made["quantize_dynamic"] = folder / "dynamic.onnx"
    bare = onnx.load(plain)
    del bare.graph.value_info[:]  # it takes shapes of the export's for those of its own
    quantize_dynamic(bare, str(made["quantize_dynamic"]), per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    return made


def nncf_peers(plain: Path, images: torch.Tensor) -> dict[str, Any]:
    """What NNCF makes for OpenVINO."""
    import nncf
    import openvino as ov

    data = nncf.Dataset([part.numpy() for part in images.split(1)])
    return {
        f"NNCF {device.value}": nncf.quantize(
            ov.Core().read_model(plain), data, model_type=nncf.ModelType.TRANSFORMER, target_device=device,
            subset_size=len(images),
        )
        for device in (nncf.TargetDevice.CPU, nncf.TargetDevice.CPU_SPR)
    }  # fmt: skip


def sessions(name: str, runtime: str, threads: int, folder: Path) -> tuple[dict[str, Run], torch.nn.Module]:
    """All that take part, ours last, and the float network."""
    model, images = perturbed(name), torch.randn(16, 3, SIZE, SIZE)
    reading = read_timm(name, model)
    network = build_network(reading.config).eval()
    network.load_state_dict(reading.translate(model.state_dict()))
    target = "onnx-cpu" if runtime == "onnx" else "openvino"
    ours = write(quantized_network(network, images), target, folder / "ours.onnx")
    floats = write(network, target, folder / "float.onnx")
    plain = exported(model, images, folder)
    if runtime == "onnx":
        files = {
            "float (torch's export)": plain,
            "our float": floats,
            **onnx_peers(plain, images, folder),
            "ours": ours,
        }
        return {label: session(path, threads) for label, path in files.items()}, model
    models = {"float (torch's export)": plain, "our float": floats, **nncf_peers(plain, images), "ours": ours}
    has = "amx_bf16" in Path("/proc/cpuinfo").read_text() or "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    hints = ("f32", "bf16") if has else ("f32",)
    runs = {
        f"{label} {hint}": openvino_session(file, threads, hint) for label, file in models.items() for hint in hints
    }
    if has:  # ours last, at its better hint
        trial = compare({"ours f32": runs["ours f32"], "ours bf16": runs["ours bf16"]}, 1, 5)
        best = "ours bf16" if trial["ours f32"].value > 1 else "ours f32"  # type: ignore[attr-defined]
        runs[best] = runs.pop(best)
    return runs, model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("runtime", choices=("onnx", "openvino"))
    parser.add_argument("batch", type=int, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    if given.threads > 1:
        os.sched_setaffinity(0, {0})  # the calling thread's core; see `session`
    with tempfile.TemporaryDirectory() as name:
        runs, model = sessions(given.name, given.runtime, given.threads, Path(name))
        *_, ours = runs
        print(f"{given.name}, {given.runtime}, threads {given.threads}; logit SQNR:")
        print("  " + ", ".join(f"{label} {logit_sqnr(run, model):.1f} dB" for label, run in runs.items()))
        for batch in given.batch:
            result: dict[str, Any] = compare(runs, batch, given.seconds)
            rounds = result.pop("rounds")
            print(
                f"  batch {batch}, {rounds} rounds; {ours} is so many times as fast as: "
                + ", ".join(f"{label} {r.value:.2f} ({r.low:.2f}–{r.high:.2f})" for label, r in result.items()),
                flush=True,
            )


if __name__ == "__main__":
    np.set_printoptions(precision=3)
    print(f"onnxruntime {ort.__version__}, timm {timm.__version__}, torch {torch.__version__}")
    main()
