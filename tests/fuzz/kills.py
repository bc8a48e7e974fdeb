"""kill -9 at twenty moments of each command, and two processes in one place.

    python -m tests.fuzz.kills --seed 0 --kills 20 --pairs 50 --out DIR      (make kills)

After a kill the output is what it was before, or whole. After the same command once more it has the bytes of a run that
nobody stopped, and nothing else stands beside it. Of two processes, each ends as it would alone, or is refused.
Exit code 1: one did otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported: threads of a pool would not be there after a fork.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

from .judge import answers, tree  # noqa: E402
from .server import Outcome, run, start  # noqa: E402

PAIR = "onnx/model.float.onnx onnx/model.onnx"
IMAGES = "--data folder:images --eval-data parquet:digits.parquet --batch-size 10 --save-minutes 0 --out out --resume"


@dataclass(frozen=True)
class Command:
    """A command line that writes `out`.

    Attributes:
        needs: what it reads, of the material.
        before: what wrote the artifact that stands there; where there is none, a run is gone on with.
        exact: whether two runs give the same bytes; otherwise, the same figures but those of a clock.
    """

    name: str
    line: str
    needs: tuple[str, ...]
    before: str = ""
    exact: bool = True


FLOAT = ("digits.safetensors",)
RUN = ("images", "digits.parquet", "training.toml")
W8A8 = "quantize digits.safetensors --calib-images 64 --out out"
SEARCH = f"{W8A8} --max-drop 5 --candidate W8A8 --candidate W4A8 --effort fast --held-out-images 400"
EXPORT = "export w8a8 --source digits.safetensors --out out"
RTX = f"{EXPORT} --trt --flavor rtx --compute-capability 8.9"
EVALUATE = "evaluate w8a8 --json out/figures.json --limit"
CHECK = (
    "check onnx/model.onnx --baseline onnx/model.float.onnx --no-sensitivity --rounds 20 --batch 1 --out out --limit"
)
BENCH = f"bench {PAIR} --batch 1 --json out/times.json --rounds"
REPORT = "report report/report.json --out out --format"

COMMANDS = (
    Command("quantize W8A8", W8A8, FLOAT, f"{W8A8} --calib-images 8"),
    Command("quantize W4A8", f"{W8A8} --recipe learned.toml", (*FLOAT, "learned.toml"), W8A8),
    Command("search", SEARCH, FLOAT, W8A8),
    Command("qat", f"qat w4a16 --epochs 2 --source digits.safetensors {IMAGES}", (*FLOAT, *RUN, "w4a16")),
    Command("train", f"train --recipe training.toml {IMAGES}", RUN),
    Command("export --onnx", f"{EXPORT} --onnx", (*FLOAT, "w8a8"), f"{EXPORT} --onnx --temperature 2"),
    Command("export --openvino", f"{EXPORT} --openvino", (*FLOAT, "w8a8"), f"{EXPORT} --openvino --temperature 2"),
    Command("export --trt rtx", RTX, (*FLOAT, "w8a8"), f"{RTX} --onnx-only", exact=False),
    Command("evaluate --json", f"{EVALUATE} 256", ("w8a8",), f"{EVALUATE} 8"),
    Command("check", f"{CHECK} 64", ("onnx",), f"{CHECK} 8", exact=False),
    Command("report", f"{REPORT} md,html,junit,csv", ("report",), f"{REPORT} md"),
    Command("bench --json", f"{BENCH} 40", ("onnx",), f"{BENCH} 10", exact=False),
)


class Trials:
    """Runs commands of one material in folders of their own.

    Attributes:
        faults: what went as it must not, in words.
    """

    def __init__(self, material: Path, out: Path, seed: int) -> None:
        self.material, self.out, self.rng = material, out, random.Random(seed)
        self.faults: list[str] = []

    def kills(self, command: Command, number: int) -> str:
        """A row of the table: `kill -9` at so many moments."""
        alone = self.alone(command, command.line)
        before = self.alone(command, command.before) if command.before else None
        states: Counter[str] = Counter()
        moments = []
        for i in range(number):
            replaces = before is not None and i % 2 == 1
            home = self.place(command)
            if before is not None and replaces:
                shutil.copytree(before.home / "place" / "out", home / "place" / "out")
            line = f"{command.line} --force" if replaces and _forces(command) else command.line
            moments.append(alone.seconds * (i + self.rng.random()) / number)
            outcome = start(line.split(), home / "place", home / "aside").wait(kill_after=moments[-1])
            what = f"{command.name}, killed after {moments[-1]:.2f} s" + (", over another" if replaces else "")
            state = self._state(home, command, alone, before if replaces else None)
            states[state if outcome.ended == "kill" else "ended before"] += 1
            if state == "broken":
                self.faults.append(f"{what}: the output is neither the old one nor the new one")
            finished = (home / "place" / "out").exists() and "--force" not in line and _forces(command)
            again = run((f"{line} --force" if finished else line).split(), home / "place", home / "aside")
            if again.code not in (0, 1, 3):
                self.faults.append(f"{what}: once more, exit code {again.code}: {again.err.strip()}")
            elif snapshot(home, command) != alone.snapshot:
                self.faults.append(f"{what}: once more, other bytes: {_differences(alone.home, home)}")
            self._left(what, home, command)
        shutil.rmtree(self.out / "places", ignore_errors=True)
        return f"| {command.name} | {min(moments):.2f} to {max(moments):.2f} | {_counts(states)} |"

    def pairs(self, commands: Sequence[Command], number: int) -> str:
        """A row for two processes in one place, one some time after the other."""
        states: Counter[str] = Counter()
        known: dict[str, tuple[Alone, Alone]] = {}
        for i in range(number):
            command = commands[i % len(commands)]
            other = command.before or command.line
            if command.name not in known:
                known[command.name] = (self.alone(command, command.line), self.alone(command, other))
            alone = known[command.name]
            lines = [
                line if self.rng.random() < 0.5 or not _forces(command) else f"{line} --force"
                for line in (command.line, other)
            ]
            order = self.rng.sample((0, 1), 2)
            home = self.place(command)
            first = start(lines[order[0]].split(), home / "place", home / "aside")
            pause = self.rng.random() ** 2 * alone[order[0]].seconds
            time.sleep(pause)
            second = start(lines[order[1]].split(), home / "place", home / "aside-2")
            ended = [first.wait(), second.wait()]
            what = f"{lines[order[0]]}, and after {pause:.2f} s {lines[order[1]]}"
            states["both done" if all(_done(e) for e in ended) else "one refused"] += 1
            if not any(_done(e) for e in ended):
                self.faults.append(f"{what}: neither was done: {[e.err.strip() for e in ended]}")
            for outcome in ended:
                if not _done(outcome) and (
                    outcome.code != 2 or not outcome.err.startswith("error: ") or "Unexpected" in outcome.err
                ):
                    self.faults.append(f"{what}: exit code {outcome.code}: {outcome.err.strip()}")
            results = [alone[k].snapshot for k, e in zip(order, ended, strict=True) if _done(e)]
            if snapshot(home, command) not in results:
                self.faults.append(f"{what}: the result is nobody's: {_differences(alone[order[0]].home, home)}")
            self._left(what, home, command)
        return f"| two processes in one place | {number} times | {_counts(states)} |"

    def alone(self, command: Command, line: str) -> Alone:
        """What a command gives that nobody stops.

        Raises:
            RuntimeError: it fails.
        """
        home = self.out / "alone" / f"{command.name}-{len(list((self.out / 'alone').glob('*')))}".replace(" ", "-")
        self._fill(home, command)
        begun = time.monotonic()
        outcome = run(line.split(), home / "place", home / "aside")
        if not _done(outcome):
            raise RuntimeError(f"illama-deploy {line}: exit code {outcome.code}\n{outcome.err}")
        return Alone(home, time.monotonic() - begun, snapshot(home, command))

    def place(self, command: Command) -> Path:
        """A new folder with what a command reads."""
        home = self.out / "places" / "one"
        shutil.rmtree(home, ignore_errors=True)
        self._fill(home, command)
        return home

    def _fill(self, home: Path, command: Command) -> None:
        (home / "place").mkdir(parents=True)
        for name in command.needs:
            copy = shutil.copytree if (self.material / name).is_dir() else shutil.copyfile
            copy(self.material / name, home / "place" / name)

    def _state(self, home: Path, command: Command, alone: Alone, before: Alone | None) -> str:
        """What a kill left under the output's name."""
        if not _forces(command):
            return "a run to go on with"
        if not any((home / "place").glob("out/[!.]*")):
            return "nothing there" if before is None else "broken"
        found = snapshot(home, command)
        if before is not None and found == before.snapshot:
            return "the old one"
        return "the new one" if found == alone.snapshot else "broken"

    def _left(self, what: str, home: Path, command: Command) -> None:
        """Complain of what stands beside the output."""
        own = {"out", *command.needs}
        left = [str(p.relative_to(home)) for p in (home / "place").iterdir() if p.name not in own]
        left += [str(p.relative_to(home)) for p in (home / "place" / "out").rglob(".*")]
        left += [str(p.relative_to(home)) for p in (home / "aside" / "tmp").glob("*") if "killed" not in what]
        if left:
            self.faults.append(f"{what}: left behind: {', '.join(left)}")


@dataclass(frozen=True)
class Alone:
    """A run that nobody stopped."""

    home: Path
    seconds: float
    snapshot: str


def snapshot(home: Path, command: Command) -> str:
    """The output's names and bytes, or its figures where a clock is in them."""
    if not (home / "place" / "out").exists():
        return ""
    files = tree(home / "place" / "out")
    if command.exact:
        return str(
            {name: value for name, value in files.items() if name not in ("log.jsonl", "state.pt", "curves.png")}
        )
    return str(sorted(name for name in files if not name.startswith("."))) + answers(
        home / "place", tuple(command.line.split())
    )


def _forces(command: Command) -> bool:
    """Whether there is --force: runs are gone on with, and single files replaced without it."""
    return "--resume" not in command.line and command.line.split()[0] not in ("evaluate", "bench", "report")


def _done(outcome: Outcome) -> bool:
    return outcome.code in (0, 1, 3)


def _differences(one: Path, other: Path) -> str:
    first, second = (tree(home / "place" / "out") if (home / "place" / "out").exists() else {} for home in (one, other))
    return ", ".join(sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name)))


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items()))


def main() -> int:
    from .material import make_material
    from .server import warm_up

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--only", nargs="+", help="Names of commands.")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    warm_up()
    material = make_material(out)
    shutil.rmtree(out / "alone", ignore_errors=True)
    trials = Trials(material, out, options.seed)
    commands = [command for command in COMMANDS if not options.only or command.name in options.only]
    print("| command | killed after, s | what was left |\n| --- | --- | --- |", flush=True)
    for command in commands if options.kills else ():
        print(trials.kills(command, options.kills), flush=True)
    print(trials.pairs(commands, options.pairs), flush=True)
    for fault in trials.faults:
        print(f"\n- {fault}")
    print(f"\n{len(commands) * options.kills} kills, {options.pairs} pairs, {len(trials.faults)} faults")
    return bool(trials.faults)


if __name__ == "__main__":
    sys.exit(main())
