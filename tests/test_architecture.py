"""The tree reads as a pipeline, and imports point one way along it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import illama_deploy

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


@pytest.mark.parametrize("first", ["illama_deploy, timm", "timm, illama_deploy"])
def test_registered_with_timm(first: str) -> None:
    code = f"import {first}\nm = timm.create_model('illama_tiny', num_classes=7)\nassert m.head.out_features == 7"
    assert "illama_deploy.model.registry" in _modules_after(code)
