"""kill -9 at random moments of a training and of a QAT run, then --resume: are the weights those of a run left alone?

    python benchmarks/kill_resume.py [--kills 10] [--seed 0] [--runs train qat] > benchmarks/kill_resume.md

Both are the digits recipes, shortened; the state is saved after every update, so that kills also fall into its writing.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

COMMANDS = {
    "train": (["train", "--recipe", "digits", "--epochs", "32"], "model.safetensors"),
    "qat": (["qat", "--bits", "4", "--epochs", "6"], "quantized/model.safetensors"),
}


def start(arguments: list[str], out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "illama_deploy", *arguments, "--save-minutes", "0", "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print("| run | killed after, seconds | states that could not be read | weights |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.runs:
            arguments, result = COMMANDS[name]
            whole, broken = Path(folder) / f"{name}-whole", Path(folder) / f"{name}-killed"
            begun = time.perf_counter()
            assert start(arguments, whole).wait() == 0
            seconds = time.perf_counter() - begun
            moments, unreadable = [], 0
            for _ in range(options.kills):
                process = start(arguments, broken, "--resume")
                # A share of what is left would never reach the end; a tenth of the whole moves on and stops all over.
                moments.append(rng.uniform(0, 0.25 * seconds) + 0.05 * seconds)
                time.sleep(moments[-1])
                process.send_signal(signal.SIGKILL)
                process.wait()
                if (broken / "state.pt").exists():
                    try:
                        torch.load(broken / "state.pt", weights_only=True)
                    except Exception:
                        unreadable += 1
            assert start(arguments, broken, "--resume").wait() == 0
            one, other = load_file(whole / result), load_file(broken / result)
            equal = one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
            shown = ", ".join(f"{moment:.1f}" for moment in moments)
            print(f"| {name} | {shown} | {unreadable} | {'equal' if equal else 'DIFFERENT'} |", flush=True)


if __name__ == "__main__":
    main()
