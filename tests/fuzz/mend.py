"""What one who means harm does after an edit: hashes and seals in other files made anew, so that they hold."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from .edit_json import reseal

__all__ = ["mend_manifest", "mend_onnx"]


def mend_manifest(weights: Path) -> None:
    """Let the manifest beside edited weights have their hash, under its seal."""
    path = weights.with_name("manifest.json")
    before = path.read_bytes()
    content = json.loads(before)
    content["weights"]["sha256"] = sha256(weights.read_bytes()).hexdigest()
    path.write_bytes(reseal(before, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()))


def mend_onnx(model: Path) -> None:
    """Seal an edited ONNX file, and let the record beside it have its hash."""
    from illama_deploy.onnx_seal import append_seal

    append_seal(model)
    path = model.with_name("export.json")
    if not path.exists():
        return
    before = path.read_bytes()
    content = json.loads(before)
    written = model.read_bytes()
    content["files"][model.name] = {"sha256": sha256(written).hexdigest(), "bytes": len(written)}
    path.write_bytes(reseal(before, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()))
