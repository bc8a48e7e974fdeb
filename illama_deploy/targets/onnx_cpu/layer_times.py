"""How long each layer of a file takes, as ONNX Runtime's own profiler says; one image, one thread."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ...onnx_session import session_options
from ..profiled import RUNS, WARMUP, one_image

__all__ = ["layer_times"]

#: Nodes whose time is that of the nodes inside them.
CONTAINERS = ("Loop", "Scan", "If")
#: What the profiler appends to a node's name.
KERNEL = "_kernel_time"


def layer_times(path: Path) -> dict[str, float]:
    """Seconds per inference by node name, in ONNX Runtime on the CPU."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name, images = session.get_inputs()[0].name, one_image(path)
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
