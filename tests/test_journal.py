"""What unfinished work leaves, and who takes it up."""

from __future__ import annotations

from pathlib import Path

import torch

from illama_deploy.journal import Journal


def test_tensors_of_the_same_command_alone(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j", {"seed": 0})
    first.put("a", {"x": torch.ones(2)})
    same = Journal(tmp_path / "j", {"seed": 0}).get("a")
    assert same is not None and torch.equal(same["x"], torch.ones(2))
    (first.directory / "b.safetensors").write_bytes(b"cut short")
    assert first.get("b") is None
    assert Journal(tmp_path / "j", {"seed": 1}).get("a") is None


def test_the_journal_measures_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def measure(value: str) -> dict[str, str]:
        calls.append(value)
        return {"value": value}

    journal = Journal(tmp_path / "out", {"seed": 0})
    assert journal.measured("site-a[1]", lambda: measure("one")) == {"value": "one"}
    assert Journal(tmp_path / "out", {"seed": 0}).measured("site-a[1]", lambda: measure("two")) == {"value": "one"}
    assert Journal(tmp_path / "out", {"seed": 1}).measured("site-a[1]", lambda: measure("three")) == {"value": "three"}
    (journal.directory / "site-a[1].json").write_text('{"val')  # cut short
    assert journal.measured("site-a[1]", lambda: measure("four")) == {"value": "four"}
    assert calls == ["one", "three", "four"]
    journal.remove()
    assert not journal.directory.exists()
