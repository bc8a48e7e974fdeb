"""Olive: its passes wrap other quantizers, so a row says what Olive's own defaults make of them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from .case import Case, Inputs

SCRIPT = """
import numpy as np, torch
from olive.data.registry import Registry

class Images(torch.utils.data.Dataset):
    images = np.load({path!r})
    def __len__(self): return len(self.images)
    def __getitem__(self, i): return {{"images": self.images[i]}}, 0

@Registry.register_dataset()
def calibration_images(**kwargs): return Images()
"""


def make(config: dict[str, Any], inputs: Inputs, folder: Path) -> Path:
    from olive import run

    (folder / "script.py").write_text(SCRIPT.format(path=str(inputs.calibration.resolve())), encoding="utf-8")
    data = {"name": "calibration", "type": "DataContainer", "user_script": str(folder / "script.py"),
            "load_dataset_config": {"type": "calibration_images"}}  # fmt: skip
    if config["type"] == "OnnxStaticQuantization":
        config = {**config, "data_config": "calibration"}
    workflow = {
        "input_model": {"type": "OnnxModel", "model_path": str(inputs.onnx)},
        "data_configs": [data],
        "passes": {"quantize": config},
        "systems": {"here": {"type": "LocalSystem", "accelerators": [
            {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}},
        "target": "here", "host": "here", "cache_dir": str(folder / "cache"), "output_dir": str(folder / "out"),
    }  # fmt: skip
    (folder / "olive.json").write_text(json.dumps(workflow, indent=1), encoding="utf-8")
    run(workflow)
    return next(path for path in sorted((folder / "out").rglob("*.onnx")))


def _case(name: str, method: str, format_: str, config: dict[str, Any]) -> Case:
    return Case(f"olive-{name}", "Olive", ("olive-ai",), method, format_, "onnxruntime", partial(make, config))


CASES = [
    _case("static", "OnnxStaticQuantization, defaults", "W8A8", {"type": "OnnxStaticQuantization"}),
    _case("dynamic", "OnnxDynamicQuantization, defaults", "W8A8-dynamic", {"type": "OnnxDynamicQuantization"}),
    _case("kquant", "OnnxKQuantQuantization, block 64", "W4A16", {"type": "OnnxKQuantQuantization", "block_size": 64}),
]
