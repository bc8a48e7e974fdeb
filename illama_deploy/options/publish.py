"""What is made from the declarations: types of the functions in Python (`__init__.pyi`), and docs/options.md.

python -m illama_deploy.options.publish      writes both; tests/options/test_options.py fails where one is not current.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

from . import steps
from .declare import Found, Options, range_words

__all__ = ["functions_page", "options_page", "publish"]

PACKAGE = Path(__file__).parents[1]
#: Names that the package gives; a look at what is imported already, since rooms import no later ones.
PUBLIC: list[str] = sys.modules[str(__package__).partition(".")[0]].__all__
#: Each step's options.
STEPS: dict[str, type[Options]] = {
    "train": steps.TrainOptions,
    "qat": steps.QatOptions,
    "quantize": steps.QuantizeOptions,
    "export": steps.ExportOptions,
    "evaluate": steps.EvaluateOptions,
    "bench": steps.BenchOptions,
    "check": steps.CheckOptions,
    "report": steps.ReportOptions,
    "inspect": steps.InspectOptions,
    "demo": steps.DemoOptions,
}
#: Where the types that a signature names come from.
HOMES = {
    "Any": "typing",
    "Callable": "collections.abc",
    "Mapping": "collections.abc",
    "Sequence": "collections.abc",
    "Path": "pathlib",
    "Recipe": ".recipe",
    "TrainRecipe": ".training.recipe",
    "Runtime": ".runtime",
    "Workspace": ".workspace",
    "QuantizedArtifact": ".quant",
    "TrainResult": ".steps.train",
    "ExportResult": ".steps.export",
    "Evaluation": ".steps.evaluate",
    "Benchmark": ".steps.bench",
    "Report": ".report",
}


def functions_page() -> str:
    """The stub of the package: its functions with all their options, typed."""
    errors = sorted(name for name in PUBLIC if name.endswith("Error"))
    functions = [_function(name) for name in PUBLIC if name in STEPS]
    text = "\n\n".join(functions)
    named = [name for name in HOMES if re.search(rf"\b{name}\b", text) or name in PUBLIC]
    homes: dict[str, list[str]] = {}
    for name in sorted(named):
        homes.setdefault(HOMES[name], []).append(name)
    homes[".errors"], homes[".steps.shared.load_checkpoint"] = errors, ["load_checkpoint"]
    imports = [f"from {home} import {name} as {name}" for home, names in sorted(homes.items()) for name in names]
    return "\n".join(
        [
            "# Made by `python -m illama_deploy.options.publish` from the declarations in `options`; do not edit.",
            *imports,
            "",
            f"__all__ = {json.dumps(PUBLIC)}",
            "",
            text,
            "",
        ]
    )


def _function(name: str) -> str:
    found = STEPS[name].found()
    parts = [_parameter(one) for one in found if one.first]
    parts += ["*", *(_parameter(one) for one in found if not one.first)]
    return f"def {name}(\n    " + ",\n    ".join(parts) + f",\n) -> {_returns(name)}: ..."


def _parameter(one: Found) -> str:
    shown = one.default if isinstance(one.default, str | int | float | bool | tuple | None) else ...
    return f"{one.name}: {_python(one)} = {'...' if shown is ... else _literal(shown)}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _python(one: Found) -> str:
    """The type that the function takes."""
    if one.declared.python:
        return one.declared.python
    item = getattr(one.item, "__name__", "object")
    item = "str | Path" if item == "Path" else item
    kind = f"Sequence[{item}]" if one.is_list else item
    return f"{kind} | None" if one.default is None else kind


def _returns(name: str) -> str:
    """What the step returns, as its source says."""
    tree = ast.parse((PACKAGE / "steps" / f"{name}.py").read_text(encoding="utf-8"))
    [step] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return "None" if step.returns is None else ast.unparse(step.returns)


def options_page() -> str:
    """All options of all steps, as Markdown."""
    lines = [
        "# Options",
        "",
        "Made from the declarations in `illama_deploy/options` by `python -m illama_deploy.options.publish`. The",
        "command line takes them, and so do the functions of the same names in Python.",
    ]
    for name, options in STEPS.items():
        lines += ["", f"## {name}", "", options.__doc__ or "", "", "| option | in Python | value | default | |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_row(one) for one in (steps.ExportLine if name == "export" else options).found() if one.flag]
    return "\n".join(lines) + "\n"


def _row(one: Found) -> str:
    about = one.declared
    flag = f"`{one.flag}`" + (f", `{about.no}`" if about.no else "")
    if about.is_argument:
        flag = f"`{one.name}`, by position"
    default: Any = one.default
    if default is None or default == ():
        shown = about.otherwise
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    kind = "" if one.item is bool else range_words(about) or about.unit
    cells = (flag, f"`{one.name}`", kind, shown, about.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def publish() -> None:
    """Write both."""
    (PACKAGE / "__init__.pyi").write_text(functions_page(), encoding="utf-8")
    (PACKAGE.parent / "docs" / "options.md").write_text(options_page(), encoding="utf-8")


if __name__ == "__main__":
    publish()
