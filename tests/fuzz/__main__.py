"""python -m tests.fuzz --seed 0 --mutants 5000 --jobs 2 --out DIR: goes on where it was stopped.

Exit code 1: a mutant failed. `DIR/failing/` holds each of them, with the command that shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

# Before torch is imported: threads of a pool would not be there after a fork.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=[])
    parser.add_argument("--only", type=int, nargs="+", help="Numbers of mutants to run again.")
    parser.add_argument("--share", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()

    from .campaign import failures, read_results, summary

    begun = time.monotonic()
    if options.share or options.jobs == 1:
        work(options)
        if options.share:
            return 0
    else:
        prepare(options.out)
        own = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]]
        shares = [subprocess.Popen([*own, "--share", str(share)]) for share in range(1, options.jobs + 1)]
        codes = [share.wait() for share in shares]
        if any(codes):
            return 2
    wanted = options.only or range(options.mutants)
    results = [result for number, result in sorted(read_results(options.out).items()) if number in wanted]
    failed = failures(results)
    text = summary(results)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    print(text)
    for result in failed:
        print("{number:05} {verdict}: {kind}, {edit}: illama-deploy {command}\n      {says}".format(**result))
    print(f"{len(results)} mutants in {time.monotonic() - begun:.0f} s, {len(failed)} failed")
    return bool(failed) or len(results) < len(wanted)


def prepare(out: Path) -> None:
    """Make the material in a process of its own."""
    code = "import sys, pathlib; from tests.fuzz import server, material; server.warm_up(); "
    subprocess.run(
        [sys.executable, "-c", code + "material.make_material(pathlib.Path(sys.argv[1]))", str(out)], check=True
    )


def work(options: argparse.Namespace) -> None:
    """Run this process's share of the mutants."""
    from .campaign import Campaign, read_results
    from .material import make_material
    from .server import warm_up

    warm_up()
    campaign = Campaign(make_material(options.out), options.out, options.seed, options.kinds)
    done = {} if options.only else read_results(options.out)
    with (options.out / f"results-{options.share}.jsonl").open("a", encoding="utf-8") as file:
        for number in options.only or range(options.mutants):
            if number in done or (options.share and number % options.jobs != options.share - 1):
                continue
            result = campaign.mutant(number)
            file.write(json.dumps(result) + "\n")
            file.flush()


if __name__ == "__main__":
    sys.exit(main())
