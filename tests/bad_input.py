"""What tests of bad input share. It ends in exit code 2 and a message that names what is wrong, and leaves nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor

from illama_deploy.checkpoint import read_checkpoint
from illama_deploy.onnx_metadata import PREFIX
from illama_deploy.onnx_seal import append_seal
from illama_deploy.quant import QuantizedArtifact
from illama_deploy.sealed import write_sealed

if TYPE_CHECKING:
    from .conftest import Cli

Refused = Callable[..., str]
State = dict[str, Tensor]

#: What a checkpoint without metadata has to be told to be the digits network.
PLAIN = ("--data", "digits", "--mean", "0.3", "--std", "0.3")
#: The shortest check.
QUICK = ("--limit", 8, "--rounds", 10, "--batch", 1)


def assert_error(code: int, err: str, *says: str, hint: bool = True) -> None:
    """One message, exit code 2, each of `says` in it, and no fault of our own."""
    assert code == 2, err
    assert err.startswith("error: "), err
    assert "Traceback" not in err, err
    assert "Unexpected" not in err, err
    for text in says:
        assert text in err
    assert not hint or "\n  next:  " in err, f"no hint in: {err}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder that outputs go to."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def refused(cli: Cli, place: Path) -> Refused:
    """Run a command that must fail; nothing may be left where its output would go."""

    def run(command: str, *arguments: object, says: Sequence[str], hint: bool = True) -> str:
        options: tuple[object, ...] = ("--json" if command in ("evaluate", "bench") else "--out", place / "out")
        if command == "quantize" and "--calib-images" not in arguments:
            options += ("--calib-images", 8)
        code, _, err = cli(command, *arguments, *options)
        assert_error(code, err, *says, hint=hint)
        assert list(place.iterdir()) == []
        return err

    return run


@pytest.fixture(scope="session")
def digits_state() -> State:
    return dict(read_checkpoint("digits").state)


@pytest.fixture
def quantized(digits_quantized: QuantizedArtifact, tmp_path: Path) -> Path:
    """A quantized checkpoint that may be damaged."""
    return Path(shutil.copytree(digits_quantized.path, tmp_path / "quantized"))


def save(path: Path, state: State, **changes: Tensor | None) -> Path:
    """Save a state dict with some keys replaced (`__` stands for a dot), or left out (None)."""
    changed = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
    torch.save({"model": {key: value for key, value in changed.items() if value is not None}}, path)
    return path


def image_folder(root: Path, classes: int = 10, images: int = 1) -> str:
    """Write `images` 8×8 images for each class and return the data spec."""
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for number in range(images):
            Image.new("L", (8, 8), 20 * label).save(root / str(label) / f"{number}.png")
    return f"folder:{root}"


def parquet(path: Path, rows: int = 4) -> Path:
    encoded = io.BytesIO()
    Image.new("L", (8, 8)).save(encoded, "PNG")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": encoded.getvalue()}] * rows, "label": list(range(rows))}), path)
    return path


def flatten_onnx(
    path: Path,
    images: Sequence[int | str] = ("batch", 1, 2, 5),
    logits: Sequence[int | str] = ("batch", 10),
    kind: int = TensorProto.FLOAT,
    **metadata: str,
) -> Path:
    """A network of one Flatten."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("images", kind, images)],
        [helper.make_tensor_value_info("logits", kind, logits)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {PREFIX + key: value for key, value in metadata.items()})
    onnx.save(model, path)
    if metadata:
        append_seal(path)
    return path


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Replace keys of the manifest, or remove them (None), and seal it anew."""
    path = directory / "manifest.json"
    edited = {**json.loads(path.read_text()), **changes}
    write_sealed(path, {key: value for key, value in edited.items() if value is not None})


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def lock(path: Path, access: int) -> None:
    """Take all permissions away; skips where that means nothing (root)."""
    path.chmod(0o000)
    if os.access(path, access):
        pytest.skip("this user may do everything")


LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from illama_deploy.cli import main
main()
"""


def limited(limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
