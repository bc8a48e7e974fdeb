"""Mutants one after another: made, read by a step, judged, written down."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .draw import Draw
from .judge import FAILURES, Original, answers, judge, tree
from .kinds import KINDS, Kind
from .server import Outcome, run

__all__ = ["Campaign", "failures", "summary"]


class Campaign:
    """Runs mutants of a material, each in a folder of its own.

    Args:
        out: results, and a folder for each mutant that failed.
        kinds: names; all where none is given.
    """

    def __init__(self, material: Path, out: Path, seed: int, kinds: Sequence[str] = ()) -> None:
        self.material, self.out, self.seed = material, out, seed
        self.kinds = [KINDS[name] for name in kinds or KINDS]
        self.kinds = [kind for kind in self.kinds if all((material / file).exists() for file in kind.files)]
        self._originals: dict[tuple[str, ...], Original] = {}
        self._others = sorted((path for path in material.rglob("*") if path.is_file()), key=os.fspath)

    def kind_of(self, number: int) -> Kind:
        """Kinds take turns by their shares, so that any first so many mutants hold all of them."""
        order = [kind for kind in self.kinds for _ in range(kind.share)]
        random.Random(0).shuffle(order)
        return order[number % len(order)]

    def mutant(self, number: int) -> dict[str, Any]:
        """Make a mutant, run a step on it and say how it went."""
        kind = self.kind_of(number)
        rng = random.Random(f"{self.seed} {kind.name} {number}")
        file, line = rng.choice(kind.files), rng.choice(kind.commands)
        command = tuple(line.format(file=file, folder=Path(file).parent).split())
        original = self._original(kind, file, command)
        home = self.out / "places" / str(number)
        place = self._place(home, kind, file)
        draw = Draw(rng, home / "trap", home / "marker", self._others)
        content = (self.material / file).read_bytes()
        edit = kind.edit(draw)
        changed = edit.change(content, draw)
        (place / file).write_bytes(changed)
        if kind.mend is not None:
            kind.mend(place / file)
        before = tree(home)
        outcome = run(command, place, home / "aside", draw.trap)
        verdict = (
            "original"
            if original.fails
            else self._verdict(kind, edit.whole or changed == content, command, outcome, original, home, before)
        )
        if verdict in FAILURES:
            self._keep(number, kind, command, outcome, home)
        shutil.rmtree(home, ignore_errors=True)
        said = next(
            (line for line in (original.fails or outcome.err).splitlines() if line.startswith("error: ")),
            outcome.err[-300:],
        )
        return {
            "number": number, "kind": kind.name, "file": file, "edit": edit.name, "command": shlex.join(command),
            "verdict": verdict, "code": outcome.code, "seconds": round(outcome.seconds, 2),
            "peak_mb": outcome.peak_bytes >> 20, "says": said[:300],
        }  # fmt: skip

    def _verdict(
        self, kind: Kind, whole: bool, command: tuple[str, ...], outcome: Outcome, original: Original, home: Path,
        before: dict[str, str],
    ) -> str:  # fmt: skip
        output = "place/run" if "--resume" in command else "place/out"
        after = tree(home)
        strange = [
            name for name in before.keys() | after.keys()
            if before.get(name) != after.get(name) and not name.startswith((output, "aside"))
        ]  # fmt: skip
        strange += [str(path) for path in (home / "aside" / "tmp").rglob("*")]
        left = [name for name in after if name.startswith(f"{output}/")]
        found = answers(home / "place", command) if outcome.code in (0, 1, 3) and not outcome.ended else ""
        return judge(kind, whole, outcome, original, found, strange, [] if "--resume" in command else left)

    def _original(self, kind: Kind, file: str, command: tuple[str, ...]) -> Original:
        if command not in self._originals:
            home = self.out / "places" / f"original-{os.getpid()}"
            place = self._place(home, kind, file)
            outcome = run(command, place, home / "aside")
            found = answers(place, command) if outcome.code in (0, 1, 3) else ""
            fails = outcome.code not in (0, 1, 3) and "trt/model.engine" not in command  # which needs a GPU
            self._originals[command] = Original(found, outcome.peak_bytes, outcome.events, outcome.err if fails else "")
            shutil.rmtree(home)
        return self._originals[command]

    def _place(self, home: Path, kind: Kind, file: str) -> Path:
        shutil.rmtree(home, ignore_errors=True)
        place = home / "place"
        place.mkdir(parents=True)
        os.mkfifo(home / "trap")
        for name in {
            *kind.needs,
            file if len(Path(file).parts) == 1 or kind.name == "onnx alone" else Path(file).parts[0],
        }:
            source, target = self.material / name, place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
        return place

    def _keep(self, number: int, kind: Kind, command: tuple[str, ...], outcome: Outcome, home: Path) -> None:
        """Keep what a failing mutant is, with the command that shows it."""
        kept = self.out / "failing" / f"{number:05}-{kind.name.replace(' ', '-')}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        output = home / "place" / "out"
        shutil.rmtree(output, ignore_errors=True)
        (home / "trap").unlink(missing_ok=True)
        shutil.move(home / "place", kept / "place")
        (kept / "stdout").write_text(outcome.out, encoding="utf-8")
        (kept / "stderr").write_text(outcome.err, encoding="utf-8")
        line = f'cd "$(dirname "$0")/place" && ILLAMA_DEPLOY_DEBUG=1 illama-deploy {shlex.join(command)}\n'
        (kept / "show.sh").write_text(line, encoding="utf-8")


def failures(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that went as none may."""
    return [result for result in results if result["verdict"] in FAILURES]


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: what became of the mutants, kind by kind."""
    lines = ["| kind | mutants | refused | same answers | another file | failed | longest, s | most memory, MB |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in [*KINDS, "all"]:
        own = [result for result in results if name in (result["kind"], "all")]
        if not own:
            continue
        count = Counter(result["verdict"] for result in own)
        failed = [f"{number} {verdict}" for verdict, number in count.items() if verdict in FAILURES]
        numbers = " | ".join(str(count[verdict]) for verdict in ("refused", "same", "other"))
        longest, most = max(result["seconds"] for result in own), max(result["peak_mb"] for result in own)
        lines.append(f"| {name} | {len(own)} | {numbers} | {', '.join(failed) or 0} | {longest:.1f} | {most} |")
    return "\n".join(lines) + "\n"


def read_results(out: Path) -> dict[int, dict[str, Any]]:
    """What was written down so far, by number."""
    results = {}
    for path in sorted(out.glob("results-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                result = json.loads(line)
            except ValueError:  # killed while it wrote
                continue
            results[result["number"]] = result
    return results
