"""Versions of what made an artifact, and the lowest that load one."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

__all__ = ["LOWEST", "cpu", "is_older", "package_version", "versions"]

#: The lowest version of each runtime that loads our files, by package. Our files are of opset 23: ONNX Runtime 1.23 has
#: no kernel for its QuantizeLinear, and TensorRT has had RotaryEmbedding and RMSNormalization since 10.15.
LOWEST = {"onnxruntime": "1.24.1", "openvino": "2025.0", "tensorrt": "10.15", "tensorrt-rtx": "1.4"}


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(*names: str) -> dict[str, str]:
    """Versions of those of `names` that are installed, this package's first."""
    found = {name: package_version(name) for name in ("illama-deploy", *names)}
    return {name: number for name, number in found.items() if number is not None}


def is_older(found: str, lowest: str) -> bool:
    """Whether version `found` comes before `lowest`, by their numbers; what follows those does not count."""
    one, other = (
        tuple(map(int, re.findall(r"\d{1,9}", text.split("-")[0].split("+")[0])[:4])) for text in (found, lowest)
    )
    return one < other


def cpu() -> dict[str, str]:
    """What numbers depend on besides packages: the instruction set that torch computes with, such as `AVX512`. Another
    one adds in another order, which changes the last bits of ranges and now and then an integer.
    """
    import torch

    return {"capability": torch.backends.cpu.get_cpu_capability()}
