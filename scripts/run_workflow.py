"""Run the shell steps of a CI file here, as they are written.

    python scripts/run_workflow.py docs/ci/github.yml [JOB]
    python scripts/run_workflow.py docs/ci/gitlab-ci.yml check

For a change to a workflow, before it is pushed. Steps run in the current folder, in a shell like the service's, with
the workflow's `env` (the caller's own environment wins) and the outputs of earlier steps. Composite actions of this
repository are followed; other actions (`uses: actions/…`) need the service and are named and left out. Of conditions,
`always()` and none run; those that look at the service's event do not. The exit code is that of the first step that
fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")


class Runner:
    """One job's steps, one after the other."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="workflow-"))
        self.environment = {"GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"), "RUNNER_TEMP": str(self.folder)}
        self.environment |= environment

    def run(self, steps: list[dict[str, Any]], inputs: Mapping[str, str]) -> int:
        """Run steps until one fails."""
        outputs: dict[str, str] = {}

        def resolve(text: object) -> str:
            return EXPRESSION.sub(lambda found: self._look_up(found[1], inputs, outputs), str(text))

        for step in steps:
            name = step.get("name", step.get("uses", "step"))
            if "github." in step.get("if", ""):
                print(f"-- {name}: left out, its condition is the service's", flush=True)
                continue
            if step.get("uses", "").startswith("./"):
                action = yaml.safe_load((ROOT / step["uses"] / "action.yml").read_text(encoding="utf-8"))
                given = {key: str(about.get("default", "")) for key, about in action["inputs"].items()}
                given |= {key: resolve(value) for key, value in step.get("with", {}).items()}
                if code := self.run(action["runs"]["steps"], given):
                    return code
                continue
            if "run" not in step:
                print(f"-- {name}: left out, it needs the service", flush=True)
                continue
            print(f"-- {name}", flush=True)
            written = self.folder / "output"
            written.write_text("")
            own = {key: resolve(value) for key, value in step.get("env", {}).items()}
            environment = {**os.environ, **self.environment, **own, "GITHUB_OUTPUT": str(written)}
            code = subprocess.run([*SHELL, resolve(step["run"])], env=environment, check=False).returncode
            for line in written.read_text().splitlines():
                key, _, value = line.partition("=")
                outputs[f"steps.{step.get('id')}.outputs.{key}"] = value
            if code:
                return code
        return 0

    def _look_up(self, expression: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
        scope, _, name = expression.partition(".")
        if scope == "inputs":
            return inputs[name]
        if scope == "env":
            return self.environment[name]
        return outputs[expression]


def main() -> int:
    content = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if "jobs" in content:
        job = content["jobs"][sys.argv[2]] if len(sys.argv) > 2 else next(iter(content["jobs"].values()))
        given, steps = content.get("env", {}), job["steps"]
    else:  # GitLab: keys that are no job are few, and a job has a script
        job = content[sys.argv[2]]
        given = content.get("variables", {})
        steps = [{"name": line, "run": line} for line in (*job.get("before_script", ()), *job["script"])]
    environment = {key: os.environ.get(key, str(value)) for key, value in given.items()}
    return Runner(environment).run(steps, {})


if __name__ == "__main__":
    sys.exit(main())
