"""How long each layer of an exported file takes, as its runtime's own profiler says; one image, one thread."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from ..onnx_session import session_options
from ..runtime.onnx_file import read_onnx

__all__ = ["onnxruntime_times", "openvino_times"]

WARMUP, RUNS = 3, 20
#: Nodes whose time is that of the nodes inside them.
CONTAINERS = ("Loop", "Scan", "If")
#: What the profiler appends to a node's name.
KERNEL = "_kernel_time"


def onnxruntime_times(path: Path) -> dict[str, float]:
    """Seconds per inference by node name, in ONNX Runtime on the CPU."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name, images = session.get_inputs()[0].name, _images(path)
        for _ in range(WARMUP + RUNS):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    for event in events:
        kind = event.get("args", {}).get("op_name")
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL) and kind not in CONTAINERS:
            times.setdefault(event["name"].removesuffix(KERNEL), []).append(event["dur"] / 1e6)
    # The first runs are warm-up; a node inside a loop has several events to a run.
    return {node: sum(found[len(found) * WARMUP // (WARMUP + RUNS) :]) / RUNS for node, found in times.items()}


def openvino_times(path: Path) -> list[tuple[str, float]]:
    """(layer type, seconds per inference) in order of execution, in OpenVINO on the CPU."""
    import openvino as ov

    compiled = ov.Core().compile_model(str(path), "CPU", {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1})
    request, images = compiled.create_infer_request(), _images(path)
    for _ in range(WARMUP + RUNS):
        request.infer({0: images})
    rows = []
    for node in compiled.get_runtime_model().get_ops():
        about = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        took = about.get("execTimeMcs", "0")  # a mean over all runs, or "not_executed"
        seconds = float(took) / 1e6 if took.replace(".", "", 1).isdecimal() else 0.0
        rows.append((int(about["execOrder"]), about["layerType"], seconds))
    return [(kind, seconds) for _, kind, seconds in sorted(rows, key=lambda row: row[0])]


def _images(path: Path) -> np.ndarray:
    preprocessing = read_onnx(path).preprocessing
    shape = (1, preprocessing.channels, *preprocessing.size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
