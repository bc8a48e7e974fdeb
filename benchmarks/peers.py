"""The same checkpoint, calibration images and evaluation through our quantizer and everybody else's, as one table.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/peers.py ../shared --out docs/benchmarks.md --python modelopt=PYTHON

ModelOpt's requirements contradict ours, so PYTHON is that of an environment with `nvidia-modelopt[onnx]`. What can't
run gets a row that says why. Results are kept in `--work`; an interrupted run goes on where it was, and deleting a
case's folder there makes it anew. Rows: `benchmarks/peers/*.py`, a file per tool.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peers import BATCHES, CASES, Case, Inputs

THREADS = (1, 2)
CHUNK = {"inductor": 8}  # compiled for the batch sizes that are timed, and for no other
#: Compiling takes a minute for each artifact, so all of such a runtime are compiled once and take turns together;
#: elsewhere a row is timed with its two counterparts alone, which leaves each its share of the caches.
SLOW_TO_OPEN = ("inductor",)
LONGEST = 1800


def job_inputs(inputs: Inputs, _: argparse.Namespace) -> None:
    from peers.inputs import write_inputs

    write_inputs(inputs)


def job_make(inputs: Inputs, options: argparse.Namespace) -> None:
    """Quantize; what time and memory it took is this process's own."""
    case = CASES[options.case]
    folder = inputs.work / case.name
    start = time.perf_counter()
    path = case.make(inputs, folder)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    versions = {}
    for package in case.packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    record = {"file": str(path.relative_to(folder)), "seconds": seconds, "peak_mb": peak, "versions": versions}
    (folder / "made.json").write_text(json.dumps(record), encoding="utf-8")


def job_evaluate(inputs: Inputs, options: argparse.Namespace) -> None:
    import numpy as np
    from peers.runtimes import HINTS, RUNTIMES, size_bytes

    from illama_deploy.measure import measure_latency

    case = CASES[options.case]
    folder = inputs.work / case.name
    record = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    path = folder / record["file"]
    record["bytes"] = size_bytes(path)
    (folder / "made.json").write_text(json.dumps(record), encoding="utf-8")
    opener = RUNTIMES[case.runtime][1]
    hint = ""
    if case.runtime == "openvino":
        runtimes = [opener(case, path, max(THREADS), hint) for hint in HINTS]
        ratio = measure_latency(runtimes, max(BATCHES), rounds=40)[1].ratio
        hint = HINTS[ratio.value < 1]
        (folder / "hint.txt").write_text(hint, encoding="utf-8")
    runtime = opener(case, path, max(THREADS), hint)
    images = np.load(inputs.folder / "images.npy")[: options.limit]
    size = CHUNK.get(case.runtime, 50)
    if len(images) % size:
        raise SystemExit(f"--limit must be a multiple of {size}")
    logits = np.concatenate([runtime.run(images[i : i + size]) for i in range(0, len(images), size)])
    np.save(folder / f"logits-{options.limit}.npy", logits)


def job_time(inputs: Inputs, options: argparse.Namespace) -> None:
    import numpy as np
    from peers.runtimes import RUNTIMES
    from peers.table import choose, partner

    from illama_deploy.measure import measure_latency

    case = CASES[options.case]
    rows, _ = choose(inputs.work, options.limit)
    together = [case]
    if case.runtime in SLOW_TO_OPEN:
        together = [o for o in rows if o.runtime == case.runtime and evaluated(inputs.work, o, options.limit)]
    others = [partner(rows, inputs.work, one, ours) for one in together for ours in (False, True)]
    runtimes = []
    for one in dict.fromkeys([other for other in others if other is not None] + together):
        folder = inputs.work / one.name
        file = json.loads((folder / "made.json").read_text(encoding="utf-8"))["file"]
        hint = (folder / "hint.txt").read_text() if (folder / "hint.txt").is_file() else ""
        runtimes.append(RUNTIMES[one.runtime][1](one, folder / file, options.threads, hint))
    load = os.getloadavg()[0]
    times = {
        f"{batch}/{runtime.info.name}": latency.seconds
        for batch in BATCHES
        for runtime, latency in zip(runtimes, measure_latency(runtimes, batch, seconds=options.seconds), strict=True)
    }
    for one in together:
        np.savez(inputs.work / one.name / f"times-{options.threads}.npz", load=np.array(load), **times)


def evaluated(work: Path, case: Case, limit: int) -> bool:
    return (work / case.name / f"logits-{limit}.npy").is_file()


JOBS = {"inputs": job_inputs, "make": job_make, "evaluate": job_evaluate, "time": job_time}


def run(job: str, case: str, options: argparse.Namespace, python: str = sys.executable, threads: int = 0) -> bool:
    """Do one job in a process of its own. This one stays small: its size would count as the child's at first."""
    folder = options.work / case
    folder.mkdir(parents=True, exist_ok=True)
    print(time.strftime("%H:%M:%S"), job, case, threads or "", flush=True)
    command = [
        python, __file__, str(options.shared), "--work", str(options.work), "--limit", str(options.limit), "--job", job,
        "--case", case, "--threads", str(threads), "--seconds", str(options.seconds),
    ]  # fmt: skip
    environment = {
        **os.environ, "TORCHINDUCTOR_CACHE_DIR": str(options.work / "inductor"), "OLIVE_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": str(threads or max(THREADS)), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    log, failed = folder / f"{job}.log", folder / f"error-{job}-{threads}.txt"
    failed.unlink(missing_ok=True)
    try:
        with log.open("w", encoding="utf-8") as output:
            code = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, timeout=LONGEST, check=False
            ).returncode
        error = "" if code == 0 else f"ended with signal {-code}" if code < 0 else last_line(log)
    except subprocess.TimeoutExpired:
        error = f"took longer than {LONGEST} s"
    except OSError as problem:
        error = f"cannot start: {problem.strerror}"
    if error:
        print("   ", error, flush=True)
        failed.write_text(f"{job}: {error}", encoding="utf-8")
    return not error


def last_line(log: Path) -> str:
    """The exception's own line, which stands where the traceback's indentation ends."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    after = [line for line in lines[starts[-1] + 1 :] if line and not line.startswith(" ")] if starts else lines[-1:]
    text = after[0] if after else "failed without a word"
    text = text.replace("|", "\\|").replace(str(Path.cwd()), ".")
    return text if len(text) < 300 else f"{text[:100]} … {text[-150:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--work", type=Path, default=Path("illama-out/peers"))
    parser.add_argument("--limit", type=int, default=5000, help="test images")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing for each batch size")
    parser.add_argument("--only", default="", help="only cases whose name matches this expression")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    for hidden in ("--job", "--case"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shared, options.work = options.shared.resolve(), options.work.resolve()
    inputs = Inputs(options.shared, options.work)
    if options.job:
        JOBS[options.job](inputs, options)
        return

    pythons = dict(entry.split("=", 1) for entry in options.python)
    if not inputs.onnx.is_file() and not run("inputs", "inputs", options):
        raise SystemExit(f"The inputs could not be made; see {inputs.folder / 'inputs.log'}.")
    cases = [case for case in CASES.values() if re.search(options.only, case.name)]
    for case in cases:
        folder = options.work / case.name
        if evaluated(options.work, case, options.limit):
            continue
        made = (folder / "made.json").is_file()
        if made or run("make", case.name, options, pythons.get(case.python, sys.executable)):
            run("evaluate", case.name, options)

    from peers.table import choose, render

    winners, _ = choose(options.work, options.limit)
    for case in winners:
        for threads in THREADS:
            done = (options.work / case.name / f"times-{threads}.npz").is_file()
            if case in cases and not done and evaluated(options.work, case, options.limit):
                run("time", case.name, options, threads=threads)
    changed = [key for key in ("limit", "seconds") if vars(options)[key] != parser.get_default(key)]
    command = " ".join([
        "python benchmarks/peers.py ../shared --out docs/benchmarks.md",
        *(f"--{key} {vars(options)[key]:g}" for key in changed), *(f"--python {name}=PYTHON" for name in pythons),
    ])  # fmt: skip
    options.out.write_text(render(options.work, options.limit, THREADS, BATCHES, command), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
