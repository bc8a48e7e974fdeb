"""How long each layer of a file takes, as OpenVINO's own profiler says; one image, one thread."""

from __future__ import annotations

from pathlib import Path

from ..profiled import RUNS, WARMUP, one_image

__all__ = ["layer_times"]


def layer_times(path: Path) -> list[tuple[str, float]]:
    """(layer type, seconds per inference) in order of execution, in OpenVINO on the CPU."""
    import openvino as ov

    compiled = ov.Core().compile_model(str(path), "CPU", {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1})
    request, images = compiled.create_infer_request(), one_image(path)
    for _ in range(WARMUP + RUNS):
        request.infer({0: images})
    rows = []
    for node in compiled.get_runtime_model().get_ops():
        about = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        took = about.get("execTimeMcs", "0")  # a mean over all runs, or "not_executed"
        seconds = float(took) / 1e6 if took.replace(".", "", 1).isdecimal() else 0.0
        rows.append((int(about["execOrder"]), about["layerType"], seconds))
    return [(kind, seconds) for _, kind, seconds in sorted(rows, key=lambda row: row[0])]
