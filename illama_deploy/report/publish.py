"""Writes `report.schema.json`: what all reports have in common (`common.schema.json`) with what each task adds to it.

python -m illama_deploy.report.publish
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..tasks import TASKS, Task
from .gates import GATES

__all__ = ["publish", "schema", "schema_text"]

FOLDER = Path(__file__).parent
PUBLISHED = FOLDER / "report.schema.json"
#: Characters of a value that is written on one line.
LINE = 120


def schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`."""
    whole: dict[str, Any] = json.loads((FOLDER / "common.schema.json").read_text(encoding="utf-8"))
    tasks = TASKS.values()
    whole["properties"]["data"]["properties"]["task"]["enum"] = list(TASKS)
    whole["$defs"]["gate"]["properties"]["name"]["enum"] = list(GATES)
    artifact = whole["$defs"]["artifact"]["properties"]
    artifact["accuracy"]["oneOf"] += [_accuracy(task) for task in tasks]
    compared = artifact["comparison"]["oneOf"][-1]
    compared["oneOf"] = [{"required": [task.drop]} for task in tasks]
    drops = {task.drop: _drop(task) for task in tasks}
    further = {
        key: {"description": title, "type": "number"}
        for task in tasks
        for key, title, _ in task.compared
        if key not in compared["properties"]
    }
    compared["properties"] = {**drops, **compared["properties"], **further}
    return whole


def _drop(task: Task) -> dict[str, Any]:
    """A task's drop, of which there is none where images need no labels and have none."""
    return {"description": "Points", "type": "number" if task.needs_labels else ["number", "null"]}


def _accuracy(task: Task) -> dict[str, Any]:
    """A task's figures, with what all tasks have."""
    own = task.schema()
    return {
        **({"description": own["description"]} if "description" in own else {}),
        "type": "object",
        "additionalProperties": False,
        "required": [*own["required"], "images", "intervals"],
        "properties": {
            **own["properties"],
            "images": {"$ref": "#/$defs/count"},
            "chance": {
                "description": "The first figure, were the same guesses dealt out among the images",
                "$ref": "#/$defs/percent",
            },
            "not_finite": {
                "description": f"{task.counted.capitalize()} with a NaN or infinite logit; they count as wrong",
                "type": "integer",
                "minimum": 1,
            },
            "intervals": {"type": "object", "additionalProperties": {"$ref": "#/$defs/interval"}},
        },
    }


def schema_text(value: Any, indent: int = 0) -> str:
    """A value as JSON, on one line where it fits."""
    short = json.dumps(value, ensure_ascii=False)
    if len(short) + indent <= LINE or not isinstance(value, dict | list) or not value:
        return short
    inside = " " * (indent + 2)
    if isinstance(value, list):
        lines = [f"{inside}{schema_text(one, indent + 2)}" for one in value]
        return "[\n" + ",\n".join(lines) + f"\n{' ' * indent}]"
    lines = [f"{inside}{json.dumps(key)}: {schema_text(one, indent + 2)}" for key, one in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{' ' * indent}}}"


def publish() -> None:
    """Write it."""
    PUBLISHED.write_text(schema_text(schema()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    publish()
