"""The CI files: of the right form, and their steps run here as they are written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT

FILES = [
    ("vendor.github-workflows", ".github/workflows/ci.yml"),
    ("vendor.github-workflows", "docs/ci/github.yml"),
    ("vendor.github-actions", ".github/actions/illama-check/action.yml"),
    ("vendor.gitlab-ci", "docs/ci/gitlab-ci.yml"),
]


def _run(command: list[str], **options: str) -> subprocess.CompletedProcess[str]:
    """As a runner would: the environment's own Python first in the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, **{k: v for k, v in options.items() if k != "cwd"}}
    return subprocess.run(command, cwd=options["cwd"], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_files_keep_to_the_services_schemas() -> None:
    pytest.importorskip("check_jsonschema")
    for schema in dict.fromkeys(schema for schema, _ in FILES):
        files = [str(ROOT / file) for kind, file in FILES if kind == schema]
        done = _run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files], cwd=str(ROOT))
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "options", "code"),
    [
        ("docs/ci/github.yml", "--max-drop 5 --max-latency-ratio 50", 0),
        ("docs/ci/github.yml", "--max-drop 5 --max-latency-ratio 0.0001", 1),
        ("docs/ci/github.yml", "--max-drop 5 --max-latency-ratio 0", 2),
        ("docs/ci/gitlab-ci.yml", "--max-drop 5 --max-latency-ratio 50 --limit 20", 3),
    ],
    ids=["pass", "fail", "usage", "inconclusive"],
)
def test_example_runs_as_written(tmp_path: Path, file: str, options: str, code: int) -> None:
    """With quick options in place of the example's, and the exit codes of every outcome."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    quick = f"{options} --rounds 10 --batch 1 --no-sensitivity"
    job = ["check"] if "gitlab" in file else []
    done = _run(
        [sys.executable, str(ROOT / "scripts" / "run_workflow.py"), str(ROOT / file), *job],
        cwd=str(tmp_path),
        OPTIONS=quick,
        TARGETS="cpu",
        PYTHONPATH=str(ROOT),
        PIP_NO_INDEX="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert (tmp_path / "illama-out" / "report" / "junit.xml").is_file() == (code != 2)
    if code == 2:
        assert "cannot be held to" in done.stderr
