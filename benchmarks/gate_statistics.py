"""How often gates are wrong: the latency gate on equal and on slowed artifacts, the accuracy gate at its limit.

    python benchmarks/gate_statistics.py > benchmarks/gate_statistics.md
    python benchmarks/gate_statistics.py --checks 3 --seconds 0.5          (a quick try)

About ten minutes on a quiet machine. Latency: whole checks of the embedded network's float file in ONNX Runtime, one
thread, batch 1, limit 1.05; the candidate is the same file opened again, and the same slowed by 15 % (it spins for 15 %
of each run's own time after it). Accuracy: simulated pairs of models whose true drop is the limit, beside Bonett and
Price's interval, which this one replaced.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from statistics import NormalDist

import numpy as np

import illama_deploy
from illama_deploy.environment import describe_environment
from illama_deploy.measure import paired_drop
from illama_deploy.report import Gate
from illama_deploy.runtime import Runtime
from illama_deploy.targets.open import open_artifact

LIMIT, SLOWDOWN = 1.05, 0.15
PAIRS = 10_000
#: Images, limit in points, share of images that only the candidate gets right.
CASES = (
    (500, 0.5, 0.0),
    (500, 0.5, 0.02),
    (1000, 0.5, 0.005),
    (2000, 0.2, 0.0),
    (5000, 0.5, 0.0),
    (5000, 0.5, 0.01),
    (50_000, 0.2, 0.02),
)


class Slowed(Runtime):
    """An artifact that takes a share longer."""

    def __init__(self, inner: Runtime, share: float) -> None:
        self.__dict__.update(vars(inner))
        self.inner, self.share = inner, share

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        logits = self.inner.run(images_BCHW)
        end = time.perf_counter()
        while time.perf_counter() < end + self.share * (end - start):
            pass
        return logits


def latency_gates(
    model: Path, share: float, checks: int, seconds: float, folder: Path
) -> tuple[Counter[str], list[float]]:
    """Verdicts of so many checks, and the ratios that they found."""
    verdicts: Counter[str] = Counter()
    ratios = []
    for number in range(checks):
        opened = open_artifact(model, threads=1)
        report = illama_deploy.check(
            [Slowed(opened, share) if share else opened],
            baseline=model,
            max_latency_ratio=LIMIT,
            batch=[1],
            seconds=seconds,
            limit=8,
            sensitivity=False,
            out=folder / "report",
            force=True,
        )
        [gate] = [gate for gate in report.gates if gate.name == "latency_ratio"]
        verdicts[str(gate.verdict)] += 1
        ratios.append(gate.value or 0.0)
        print(f"\r{share:.0%} slower: {number + 1} of {checks}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return verdicts, ratios


def bonett_price(lost: int, won: int, images: int, confidence: float = 0.95) -> float:
    """Upper bound of the drop, in points."""
    p, q = (lost + 1) / (images + 2), (won + 1) / (images + 2)
    margin = NormalDist().inv_cdf(confidence) * np.sqrt((p + q - (p - q) ** 2) / (images + 2))
    return float(100 * (p - q + margin))


def accuracy_row(images: int, limit: float, won: float) -> str:
    """Simulate pairs and judge them."""
    lost = won + limit / 100
    counts = Counter(
        map(tuple, np.random.default_rng(0).multinomial(images, [lost, won, 1 - lost - won], PAIRS).tolist())
    )
    verdicts: Counter[str] = Counter()
    replaced = 0
    at = np.arange(images)
    for (b, c, _), times in counts.items():
        drop = paired_drop(~((at >= b) & (at < b + c)), ~(at < b))
        verdicts[str(Gate.judge("accuracy_drop", "", "", limit, drop).verdict)] += times
        replaced += times * (bonett_price(b, c, images) <= limit)
    rates = [100 * count / PAIRS for count in (verdicts["pass"], verdicts["fail"], verdicts["inconclusive"], replaced)]
    shown = " | ".join(f"{rate:.2f}" for rate in rates)
    return f"| {images} | {limit:g} | {100 * won:g} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checks", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    environment = describe_environment()
    print("# How often gates are wrong\n")
    print(f"{date.today()}, {environment['cpu']}, {environment['cores']} cores ({environment['instruction sets']});")
    print(", ".join(f"{k} {v}" for k, v in environment["versions"].items()) + ".\n")
    print("    python benchmarks/gate_statistics.py > benchmarks/gate_statistics.md\n")
    print(f"## Latency\n\n{options.checks} checks each, {options.seconds:g} s, limit {LIMIT}.\n")
    print("| candidate | pass | inconclusive | fail | ratios found |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        artifact = illama_deploy.quantize(calib_images=32, out=root / "quantized")
        exported = illama_deploy.export(artifact.path, float_only=True, out=root / "onnx")
        for share, label in ((0.0, "the same file"), (SLOWDOWN, f"slowed by {100 * SLOWDOWN:.0f} %")):
            verdicts, ratios = latency_gates(exported.float_model, share, options.checks, options.seconds, root)
            shown = " | ".join(str(verdicts[verdict]) for verdict in ("pass", "inconclusive", "fail"))
            print(f"| {label} | {shown} | {min(ratios):.3f} to {max(ratios):.3f} |", flush=True)
    print(f"\n## Accuracy\n\n{PAIRS} simulated pairs each; passes must stay at or below 5 %.\n")
    print("| images | limit = true drop, points | gained % | pass % | fail % | inconclusive % | pass %, Bonett–Price |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        print(accuracy_row(*case), flush=True)


if __name__ == "__main__":
    main()
