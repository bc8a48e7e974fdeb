"""Mixed precision by search on illama-tiny-cifar10: what `quantize --max-drop` finds, on the test images it never saw.

    python benchmarks/max_drop.py ../shared > benchmarks/max_drop.md

Held-out images are training images; the drop is measured on the 5,000 test images, with the quantized directory in
torch and its ONNX file in ONNX Runtime, against the float checkpoint and beside W8A8. `--limits`, `--candidates`,
`--held-out`, `--calib` and `--images` try others; `digits` instead of `../shared` rehearses on the embedded network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import illama_deploy
from illama_deploy.environment import describe_environment
from illama_deploy.measure import paired_drop
from illama_deploy.quant import QuantizedArtifact


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("--limits", type=float, nargs="+", default=[0.5])
    parser.add_argument("--candidates", nargs="+", default=None)
    parser.add_argument("--held-out", type=int, default=None)
    parser.add_argument("--calib", type=int, default=None)
    parser.add_argument("--images", type=int, default=None, help="test images; all of them where not given")
    options = parser.parse_args()
    digits = str(options.shared) == "digits"
    checkpoint = "digits" if digits else options.shared / "checkpoints" / "illama-tiny-cifar10.pth"
    data = "digits" if digits else f"parquet:{options.shared / 'data' / 'cifar10'}"

    environment = describe_environment()
    print("# Mixed precision by search\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores.\n")
    print("    python benchmarks/max_drop.py ../shared > benchmarks/max_drop.md\n")
    print("Drops in points, on test images that took no part, with one-sided 95 % bounds.\n")
    print("| limit | formats (sites) | weights, MB | of W8A8 | held-out: drop, at most | looks | s "
          "| test: drop, torch | test: drop, ONNX Runtime | ONNX, MB |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def right(artifact: Any, name: str) -> np.ndarray:
            logits = root / f"{name}.npz"
            illama_deploy.evaluate(artifact, data=data, limit=options.images, save_logits=logits)
            saved = np.load(logits)
            return np.asarray(saved["logits"].argmax(1) == saved["labels"])

        floats = right(checkpoint, "float")

        def row(limit: str, artifact: QuantizedArtifact, seconds: float, whole: int | None) -> int:
            size = (artifact.path / "model.safetensors").stat().st_size
            exported = illama_deploy.export(artifact.path, float=False, out=artifact.path.parent / "onnx", force=True)
            drops = [paired_drop(floats, right(what, "quantized")) for what in (artifact.path, exported.model)]
            texts = [f"{drop.value:.2f} ({drop.low:.2f} to {drop.high:.2f})" for drop in drops]
            formats = Counter(f.name for f in artifact.formats.values())
            named = ", ".join(f"{name} ({count})" for name, count in sorted(formats.items()))
            search = artifact.manifest.get("search")
            looks = "–"
            if search is not None:
                curve = json.loads((artifact.path / search["file"]).read_text())["curve"]
                looks = str(sum(point["measured"] is not None for point in curve))
            held = f"{search['drop']['value']:.2f}, {search['drop']['high']:.2f}" if search is not None else "–"
            print(
                f"| {limit} | {named} | {size / 1e6:.2f} | {100 * size / (whole or size):.0f} % | {held} | {looks} "
                f"| {seconds:.0f} | {' | '.join(texts)} | {exported.model.stat().st_size / 1e6:.2f} |",
                flush=True,
            )
            return size

        start = time.perf_counter()
        w8a8 = illama_deploy.quantize(
            checkpoint, bits=8, data=data, calib_images=options.calib, out=root / "w8a8" / "q"
        )
        whole = row("W8A8", w8a8, time.perf_counter() - start, None)
        for limit in options.limits:
            start = time.perf_counter()
            artifact = illama_deploy.quantize(
                checkpoint,
                max_drop=limit,
                candidates=options.candidates,
                held_out_images=options.held_out,
                calib_images=options.calib,
                data=data,
                out=root / f"{limit}" / "q",
            )
            row(f"{limit:g}", artifact, time.perf_counter() - start, whole)
    print(f"\n{len(floats)} test images of `{data}`; float: {100 * floats.mean():.2f} %.")


if __name__ == "__main__":
    main()
