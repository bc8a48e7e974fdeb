"""The tree reads as a pipeline, and imports point one way along it."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import illama_deploy
from illama_deploy.options import steps as option_steps
from illama_deploy.options.groups import PROPERTIES as NAMES
from illama_deploy.properties import PROPERTIES
from illama_deploy.report import load_schema
from illama_deploy.target_names import LINES
from illama_deploy.targets import ALL
from illama_deploy.task_names import LINES as TASK_LINES
from illama_deploy.tasks import TASKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "illama_deploy"

# A module may import from its own line and from earlier ones.
RANKS = [
    {
        "console",
        "ending",
        "errors",
        "formats",
        "hashing",
        "hub_folder",
        "names",
        "versions",
        "onnx_metadata",
        "onnx_seal",
        "onnx_session",
        "paths",
        "_timm_hook",
    },
    {
        "tables",
        "sealed",
        "atomic",
        "journal",
        "memory",
        "affine",
        "progress",
        "preprocessing",
        "workspace",
        "options",
        "environment",
        "compilation",
        "onnx_trial",
        "target_names",
        "task_names",
    },
    {"model"},
    {"checkpoint", "data"},
    {"rewrites"},
    {"calib"},
    {"rounding"},
    {"recipe"},
    {"quant"},
    {"training"},
    {"search"},
    {"export"},
    {"runtime"},
    {"targets"},
    {"measure"},
    {"tasks"},
    {"properties"},
    {"report"},
    {"steps"},
    {"printing"},
    {"command_line", "cli", "__main__", "__init__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# The module `illama_deploy.export` is also the public function of that name.
ALLOWED_BACKWARDS = {("export/__init__.py", "steps")}


def _imports(path: Path) -> set[str]:
    """Top-level names inside the package that a file imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return names


def test_every_part_has_a_rank() -> None:
    parts = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert parts == set(RANK)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    later = {name for name in _imports(path) if RANK[name] > RANK[own]}
    assert {(str(relative), name) for name in later} <= ALLOWED_BACKWARDS


@pytest.mark.parametrize(
    ("link", "target"),
    [("export", "illama_deploy/export"), ("calib", "illama_deploy/calib"), ("cli.py", "illama_deploy/cli.py")],
)
def test_root_links_are_relative(link: str, target: str) -> None:
    assert (ROOT / link).is_symlink()
    assert str((ROOT / link).readlink()) == target


def test_public_surface() -> None:
    assert illama_deploy.__all__ == [
        "ArtifactError",
        "CheckpointError",
        "DataError",
        "DeployError",
        "ExportError",
        "Recipe",
        "RecipeError",
        "RuntimeUnavailableError",
        "TrainRecipe",
        "TrainingError",
        "UsageError",
        "bench",
        "check",
        "demo",
        "evaluate",
        "export",
        "load_checkpoint",
        "qat",
        "quantize",
        "train",
    ]
    for name in illama_deploy.__all__:
        assert callable(getattr(illama_deploy, name))


def _modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_cli_import_is_light() -> None:
    heavy = {"torch", "onnx", "timm", "onnxruntime", "numpy", "onnx_ir", "pyarrow", "sklearn", "PIL"}
    assert not heavy & _modules_after("import illama_deploy.cli")


def test_help_is_light() -> None:
    code = "import sys\nfrom illama_deploy.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "onnx", "timm", "numpy"} & _modules_after(code)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["illama_deploy, timm", "timm, illama_deploy"])
def test_registered_with_timm(first: str) -> None:
    code = f"import {first}\nm = timm.create_model('illama_tiny', num_classes=7)\nassert m.head.out_features == 7"
    assert "illama_deploy.model.registry" in _modules_after(code)


#: How iLLaMA calls its modules and parameters: `model` and `checkpoint` know, everything else asks its `Structure`.
OWN = re.compile(r"\b(attn|mlp|fc[123]|norm[12]|patch_embed|cls_token|pos_embed)\b")


@pytest.mark.slow
def test_no_room_but_the_networks_own_names_its_modules() -> None:
    rooms = ("calib", "export", "measure", "quant", "rewrites", "rounding", "search", "targets", "training")
    for path in (path for room in rooms for path in (PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            named = ""
            if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                named = node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                named = node.value
            assert not OWN.search(named), f"{path.relative_to(PACKAGE)}:{node.lineno}: {named}"  # type: ignore[attr-defined]


#: What a function may have of lines; ruff counts its branches (C901).
LONGEST = 80


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


#: A flag; of no other command than ours, which are typed whole.
TYPED = re.compile(r"(?<![\w-])--[a-z]")


def _said_in_errors(tree: ast.AST) -> Iterator[ast.Constant]:
    """Texts in what is raised, and in what an error is given or returned with."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = [node.exc] if isinstance(node, ast.Raise) else []
        if isinstance(node, ast.Call):
            parts += [keyword.value for keyword in node.keywords if keyword.arg == "hint"]
            parts += [node] if ast.unparse(node.func).endswith("Error") else []
        if isinstance(node, ast.Assign) and any("hint" in ast.unparse(one) for one in node.targets):
            parts.append(node.value)
        for part in filter(None, parts):
            yield from (one for one in ast.walk(part) if isinstance(one, ast.Constant) and isinstance(one.value, str))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_errors_name_parameters_and_no_flags(path: Path) -> None:
    """`errors.parameter` writes them, for Python or for the command line. A whole command is typed as it stands."""
    relative = path.relative_to(PACKAGE)
    if relative.parts[0] in ("cli.py", "command_line.py", "options"):
        return
    for one in _said_in_errors(ast.parse(path.read_text(encoding="utf-8"))):
        said = re.sub(r"'?illama-deploy [^']*('|$)", "", str(one.value))
        assert not TYPED.search(said), f"{relative}:{one.lineno}: {one.value}"


def test_errors_name_parameters_that_a_step_has() -> None:
    steps = [getattr(option_steps, name) for name in option_steps.__all__]
    known = {one.name for step in steps for one in step.found()}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "parameter":
                named = [one.value for one in node.args if isinstance(one, ast.Constant)]
                named += [keyword.arg for keyword in node.keywords if keyword.arg]
                for name in named:
                    assert fnmatch.filter(known, str(name)), f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}"


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_modules(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that a file imports as it is imported, or for its types; a function's own imports come later."""
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    found: set[str] = set()
    todo: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If | ast.Try):
            todo += [*node.body, *node.orelse]
        elif isinstance(node, ast.ImportFrom) and node.level:
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            names = (f"{base}.{alias.name}" for alias in node.names)
            found |= {name if name in modules else base for name in names}
    return {name for name in found if name in modules and name != _module(path)}


def test_no_circle_of_imports() -> None:
    """Those for types alone count, too."""
    modules = {_module(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: _imported_modules(path, modules) for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_targets_are_compared_by_name_in_their_own_folders_alone() -> None:
    names = {line.name for line in LINES} - {"torch"}  # which is a package, too
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] == "target_names.py" or (relative.parts[0] == "targets" and len(relative.parts) > 2):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            sides += [case.pattern.value for case in getattr(node, "cases", []) if hasattr(case.pattern, "value")]
            for side in sides:
                said = {one.value for one in ast.walk(side) if isinstance(one, ast.Constant)}
                assert not said & names, f"{relative}:{side.lineno}"


def test_tasks_are_compared_by_name_in_their_own_files_alone() -> None:
    names = {line.name for line in TASK_LINES}
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in ("task_names.py", "tasks"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            sides += [node.slice] if isinstance(node, ast.Subscript) else []
            sides += [case.pattern.value for case in getattr(node, "cases", []) if hasattr(case.pattern, "value")]
            for side in sides:
                said = {one.value for one in ast.walk(side) if isinstance(one, ast.Constant)}
                assert not said & names, f"{relative}:{side.lineno}"


def test_every_task_has_one_line_and_one_file() -> None:
    files = {path.stem for path in (PACKAGE / "tasks").glob("*.py")}
    assert {line.name for line in TASK_LINES} <= files
    assert list(TASKS) == [line.name for line in TASK_LINES]


def test_every_target_has_one_line_and_one_folder() -> None:
    folders = {path.parent.name for path in (PACKAGE / "targets").glob("*/__init__.py")}
    assert {line.folder for line in LINES} == folders
    words = [word for line in LINES for word in (line.name, *line.aliases)]
    assert len(words) == len(set(words))
    assert list(ALL) == [line.name for line in LINES]
    assert all(target.name == name for name, target in ALL.items())


def test_every_property_has_one_name_and_one_value() -> None:
    assert tuple(PROPERTIES) == NAMES
    parts = load_schema()["$defs"]["properties"]["properties"]
    assert [one.key for one in PROPERTIES.values()] == list(parts)
