"""What is installed and what is needed: pyproject.toml's floors, and what files and commands say of them."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from illama_deploy.errors import RuntimeUnavailableError
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.steps.export import ExportResult
from illama_deploy.targets import TARGETS
from illama_deploy.versions import WORK, floors, is_older, need, too_old

from .conftest import ROOT, Cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Extras that the package itself imports from, and all that its tests have besides.
RUNTIMES = tuple(extra for extra in PROJECT["optional-dependencies"] if extra not in WORK)
TESTS = (*RUNTIMES, "test")
#: Modules of distributions that need not be installed here, or not by their own name.
NAMES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


def _declared(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def _imported(folder: str) -> set[str]:
    """Distributions that the modules of a folder import from."""
    providers = packages_distributions()
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            found |= {module.split(".")[0] for module in modules}
    foreign = found - set(sys.stdlib_module_names) - {"illama_deploy", "tests"}
    # Modules that a test makes for itself come from none.
    known = [name for name in foreign if name in NAMES or name in providers]
    return {NAMES.get(name) or providers[name][0].lower().replace("_", "-") for name in known}


def test_every_requirement_names_its_lowest_version() -> None:
    """Or `make test-lowest` would run with versions that nobody meant."""
    for name, requirement in _declared(*TESTS).items():
        assert name == "illama-deploy" or any(part.operator == ">=" for part in requirement.specifier), requirement


@pytest.mark.slow
def test_what_is_imported_is_required() -> None:
    assert _imported("illama_deploy") <= set(_declared(*RUNTIMES))
    assert _imported("tests") | _imported("scripts") <= set(_declared(*TESTS))


@pytest.mark.slow
def test_what_is_required_is_imported() -> None:
    # The same module comes with either of both; timm and torch find torchvision and the drivers by themselves.
    assert set(_declared()) - {"onnxruntime", "onnxruntime-gpu"} <= _imported("illama_deploy")


def test_floors_are_those_of_the_project() -> None:
    stated = {
        name: next(part.version for part in requirement.specifier if part.operator == ">=")
        for name, requirement in _declared(*RUNTIMES).items()
    }
    assert floors() == stated
    assert too_old() == {}


def test_what_files_say_is_what_the_lowest_versions_load() -> None:
    """Tests run with the floors, so a file loads in what it names; ONNX Runtime 1.24 loads it, too, slow at W4A16."""
    lowest = {name: number for target in TARGETS.values() for name, number in target.lowest.items()}
    assert {name: floors()[name] for name in lowest} == lowest | {"onnxruntime": "1.30"}
    assert floors()["onnxruntime-gpu"] == floors()["onnxruntime"]


@pytest.mark.parametrize(
    ("here", "lowest", "older"),
    [
        ("2.10.1", "2.11", True),
        ("2.11.0+cu130", "2.11", False),
        ("2.9", "2.11", True),
        ("2.11", "2.11.0", False),
        ("2026.4.1", "2025.0", False),
        ("2024.6.0-17404-4c0f47d2335-releases/2024/6", "2025.0", True),
        ("from somebody's tree", "1.0", False),
    ],
)
def test_order_of_versions(here: str, lowest: str, older: bool) -> None:
    assert is_older(here, lowest) is older


def _pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """Have pip's record of a distribution found first that says another version."""
    record = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_doctor_says_what_is_too_old(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "too old" not in cli("doctor").out
    for name, version in (("timm", "1.0.9"), ("pyarrow", "3.0.0"), ("openvino", "2024.6.0")):
        _pretend(tmp_path, monkeypatch, name, version)
    lines = cli("doctor").out.splitlines()
    for name, version in (("timm", "1.0.9"), ("pyarrow", "3.0.0"), ("openvino", "2024.6.0")):
        assert f"{name:<18} {version}  too old: needs {floors()[name]}" in lines
    assert f"  run:   openvino 2024.6.0 is too old: pip install 'openvino>={floors()['openvino']}'" in lines


def test_a_runtime_that_is_too_old(
    cli: Cli, digits_export: ExportResult, digits_quantized: QuantizedArtifact, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Said before it is asked to load what it cannot load."""
    with pytest.raises(RuntimeUnavailableError, match="no_such_runtime is not installed"):
        need("no_such_runtime", install="pip install it")
    name = "onnxruntime-gpu" if "onnxruntime-gpu" in packages_distributions()["onnxruntime"] else "onnxruntime"
    _pretend(tmp_path, monkeypatch, name, "1.23.2")
    for result in (
        cli("evaluate", digits_export.model),
        cli("export", digits_quantized.path, "--onnx", "--no-float", "--out", tmp_path / "onnx"),
    ):
        assert result.code == 2
        assert f"{name} 1.23.2 is too old: {floors()[name]} or newer is needed." in result.err
        assert f"pip install '{name}>={floors()[name]}'" in result.err
