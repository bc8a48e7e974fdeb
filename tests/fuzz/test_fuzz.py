"""A hundred mutants of the files that steps read; `make fuzz` runs thousands.

And what judges them must be able to say no.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ..conftest import ROOT
from .judge import Original, judge
from .kinds import KINDS
from .server import Outcome

pytestmark = pytest.mark.slow

MUTANTS = 100
KINDS_HELD = ("quantized", "recipe", "image", "parquet", "search.json", "stimulus")
#: As a step ends that has read its file and found what is in it.
GOOD = Outcome(code=0, ended="", seconds=1.0, peak_bytes=0, out="", err="", events=())
ORIGINAL = Original(answers="a", peak_bytes=0, events=())


def test_hundred_mutants(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--mutants", str(MUTANTS), "--jobs", "1", "--kinds", *KINDS_HELD]
    ended = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert f"{MUTANTS} mutants" in ended.stdout


@pytest.mark.parametrize(
    ("outcome", "found", "strange", "left", "expected"),
    [
        (GOOD, "a", [], ["out/x"], "same"),
        (GOOD, "b", [], ["out/x"], "other answers"),
        (replace(GOOD, code=2, err="error: no\n"), "", [], [], "refused"),
        (replace(GOOD, code=2, err="error: no\n"), "", [], ["out/x"], "half-written"),
        (replace(GOOD, code=2, err="no\n"), "", [], [], "no message"),
        (replace(GOOD, code=2, err="error: Unexpected KeyError: 'a'\n"), "", [], [], "unexpected"),
        (replace(GOOD, code=2, err="error: no\nTraceback (most recent call last):\n"), "", [], [], "traceback"),
        (replace(GOOD, code=-11), "", [], [], "crash"),
        (replace(GOOD, code=98), "", [], [], "exit code"),
        (replace(GOOD, ended="time", code=-9), "", [], [], "time"),
        (replace(GOOD, ended="trap", code=-9), "", [], [], "trap"),
        (replace(GOOD, peak_bytes=2 << 30), "a", [], ["out/x"], "memory"),
        (replace(GOOD, events=("os.system b'touch x'",)), "a", [], ["out/x"], "code"),
        (GOOD, "a", ["place/w8a8/manifest.json"], ["out/x"], "outside"),
        (GOOD, "no JSON", [], ["out/x"], "no JSON"),
    ],
)
def test_what_is_a_failure(
    outcome: Outcome, found: str, strange: Sequence[str], left: Sequence[str], expected: str
) -> None:
    assert judge(KINDS["manifest"], False, outcome, ORIGINAL, found, list(strange), list(left)) == expected


@pytest.mark.parametrize(("kind", "whole", "expected"), [
    ("manifest", False, "other answers"),
    ("manifest", True, "other"),
    ("pth", False, "other answers"),
    ("pth", True, "other"),
    ("safetensors", False, "other"),
])  # fmt: skip
def test_whose_answers_may_differ(kind: str, whole: bool, expected: str) -> None:
    assert judge(KINDS[kind], whole, GOOD, ORIGINAL, "b", [], ["out/x"]) == expected
