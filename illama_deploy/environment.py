"""What machine this is."""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from pathlib import Path
from typing import Any

from .hashing import canonical_json
from .versions import optional_packages, versions

__all__ = ["cpu_features", "cuda_problem", "describe_environment", "sums_saturate"]

#: Instruction sets that decide which kernels run, as the kernel names them.
FEATURES = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
#: Packages of the core that figures depend on; those of extras are named where they are installed.
PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "onnx", "torchao", "timm")


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def cpu_features() -> list[str]:
    """Instruction sets of this CPU that matter for inference (Linux; empty elsewhere)."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for name in FEATURES if name in flags]


def sums_saturate() -> bool:
    """Whether 8-bit kernels of this CPU add pairs of products in 16 bits, as those of x86 did before VNNI."""
    known = cpu_features()
    return "avx2" in known and not {"avx512_vnni", "avx_vnni"} & set(known)


def describe_environment() -> dict[str, Any]:
    """Machine and versions, for a report. `fingerprint` is the same on machines of the same hardware."""
    hardware: dict[str, Any] = {
        "cpu": _cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instruction sets": " ".join(cpu_features()) or "unknown",
        "gpus": ", ".join(_gpus()) or "none",
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {
        "fingerprint": hashlib.sha256(canonical_json(hardware).encode()).hexdigest()[:12],
        **hardware,
        "python": platform.python_version(),
        "versions": versions(*PACKAGES, *optional_packages()),
    }


def _gpus() -> list[str]:
    """Names of the CUDA devices that can be used."""
    if cuda_problem() is not None:
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def cuda_problem() -> str | None:
    """Say why CUDA cannot be used here, in torch's own words; None where it can."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same text comes with the exception
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.get_device_capability()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        said = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        absent = any(text in said for text in ("no NVIDIA driver", "No CUDA GPUs", "not compiled with CUDA"))
        return f"no CUDA device ({said})" if absent else f"CUDA is here and fails ({said})"
    return None
