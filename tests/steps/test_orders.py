"""Twelve orders of the steps, nothing named: each step says what it takes, and what is measured was made last."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from illama_deploy.report import read_report
from illama_deploy.workspace import Workspace, identity

from ..conftest import Cli

pytestmark = pytest.mark.slow

#: Small enough that every step takes a second.
RECIPE = """
data = "digits"
epochs = 1
batch_size = 256
lr = 2e-3
warmup_epochs = 0
flip = 0.0
mean = [0.3]
std = [0.3]

[model]
dim = 64
depth = 2
heads = 1
image_size = 16
patch_size = 4
channels = 1
"""
#: Of a quantized network: the same, and no geometry.
QAT = RECIPE.partition("[model]")[0].replace("mean = [0.3]\nstd = [0.3]\n", "")
STEPS = ("train", "quantize", "qat", "export", "check")
#: Chosen by hand: what a user obviously means, or forgets.
USUAL = (
    ("quantize", "export", "check", "quantize", "check", "export", "check"),
    ("train", "quantize", "export", "check", "train", "check", "quantize", "export", "check"),
    ("quantize", "qat", "export", "check", "quantize", "export", "check"),
    ("train", "qat", "export", "check", "quantize", "quantize", "export", "check"),
    ("export", "check", "train", "export", "check", "quantize", "export", "check"),
)


def _drawn(seed: int) -> tuple[str, ...]:
    return tuple(random.Random(seed).choices(STEPS, k=7))


@dataclass
class Expected:
    """What a workspace should come to: its newest network, and the float one at its root."""

    place: Workspace
    newest: str = ""
    root: str = "digits"
    exported: str | None = None

    def path(self, step: str) -> Path:
        return {
            "train": self.place.trained / "model.safetensors",
            "quantize": self.place.quantized,
            "qat": self.place.qat / "quantized",
        }[step]

    def takes(self, step: str) -> Path | str | None:
        """What a step without arguments should take; None where it should refuse."""
        if step in ("quantize", "qat"):
            last = self.from_quantize if step == "qat" else ""
            if step == "qat" and last:
                return self.path(last)
            return "digits" if self.root == "digits" else self.path("train")
        return self.path(self.newest) if self.newest else None

    from_quantize: str = ""

    def done(self, step: str) -> None:
        """A network was made."""
        self.newest = step
        if step == "train":
            self.root, self.from_quantize = "train", ""
        elif step == "quantize":
            self.from_quantize = "quantize"


@pytest.mark.parametrize("order", [*USUAL, *map(_drawn, range(7))], ids="-".join)
def test_order(cli: Cli, tmp_path: Path, order: tuple[str, ...]) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    (tmp_path / "qat.toml").write_text(QAT)
    place = Workspace(tmp_path / "illama-out")
    expected = Expected(place)
    formats = iter(("W8A8", "W4A8") * 7)
    arguments = {
        "train": ("--recipe", recipe, "--force"),
        "qat": ("--recipe", tmp_path / "qat.toml", "--force"),
        "export": ("--onnx",),
        "check": ("--rounds", 10, "--batch", 1, "--no-sensitivity", "--max-drop", 100, "--max-latency-ratio", 99),
    }
    for step in order:
        given = arguments.get(step) or ("--effort", "fast", "--calib-images", 16, "--format", next(formats))
        wanted = expected.takes(step)
        result = cli(step, *given)
        if step in ("quantize", "qat"):
            assert result.code == 0, result.err
            assert str(wanted) in result.out.splitlines()[0], (step, result.out)
        elif step == "export":
            if wanted is None:
                assert result.code == 2 and "illama-deploy quantize" in result.err
                continue
            assert result.code == 0, result.err
            assert str(wanted) in result.out.splitlines()[0]
            expected.exported = identity(Path(wanted))
            continue
        elif step == "check":
            newest = identity(Path(wanted)) if wanted else None
            if newest is None or newest != expected.exported or expected.newest == "train":
                assert result.code == 2, result.out
                assert "illama-deploy" in result.err.split("next:")[1], result.err
                continue
            assert result.code in (0, 1, 3), result.err  # a network of one epoch knows little
            assert str(wanted) in result.out.splitlines()[0]
            report = read_report(place.report / "report.json")
            [candidate] = [one for one in report["artifacts"] if one["role"] == "candidate"]
            assert candidate["info"]["manifest_sha256"] == newest
            continue
        assert result.code == 0, result.err
        expected.done(step)
