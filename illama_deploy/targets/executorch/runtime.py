"""ExecuTorch programs on the CPU, in XNNPACK's delegate; one image at a time, as a phone would."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ArtifactError, RuntimeUnavailableError, UsageError, parameter
from ...export.batches import RunFile
from ...runtime import Runtime
from ...task_names import name_by_logits
from ...versions import need, package_version
from .program import Program, describe, read_program
from .quiet import quiet

__all__ = ["INSTALL", "ExecuTorchRuntime", "load_method", "need_executorch"]

INSTALL = "pip install 'illama-deploy[executorch]'"
#: Runtimes that are in use; all of a process share their threads.
_in_use: weakref.WeakSet[ExecuTorchRuntime] = weakref.WeakSet()


def need_executorch(where: Path | None = None) -> None:
    """Have ExecuTorch with XNNPACK, or say so.

    Raises:
        RuntimeUnavailableError: not installed, too old, or built for another torch.
    """
    need("executorch", install=INSTALL, where=where)
    try:
        with quiet(native=True):
            from executorch.runtime import Runtime as Loaded

            names = Loaded.get().backend_registry.registered_backend_names
    except (ImportError, OSError) as error:
        raise RuntimeUnavailableError(
            f"executorch is installed and cannot be loaded: {str(error).splitlines()[0]}.", where=where, hint=INSTALL
        ) from error
    if "XnnpackBackend" not in names:
        raise RuntimeUnavailableError("This executorch has no XNNPACK delegate.", where=where, hint=INSTALL)


def load_method(path: Path) -> RunFile:
    """Load a program that was just written, or whose hash was checked: images [B, C, H, W] to all outputs, stacked.

    Raises:
        RuntimeError: it cannot be loaded, or does not run.
    """
    with quiet(native=True):
        from executorch.runtime import Runtime as Loaded

        # A method reads from the program, and that from these bytes, for as long as it lives.
        content = path.read_bytes()
        program: Any = Loaded.get().load_program(content)
        kept: Any = (content, program, program.load_method("forward"))

    def run(images: np.ndarray) -> list[np.ndarray]:
        # Outputs lie in the method's own memory, which the next image writes over.
        each = [
            [np.array(output.numpy()) for output in kept[-1].execute((torch.from_numpy(image[None].copy()),))]
            for image in images
        ]
        return [np.stack(outputs) for outputs in zip(*each, strict=True)]

    return run


class ExecuTorchRuntime(Runtime):
    """One program with what stands beside it."""

    target = "executorch"

    def __init__(self, name: str, path: Path, threads: int) -> None:
        program = read_program(path)
        need_executorch(path)
        here = package_version("executorch") or ""
        self.require(program.runtimes, "executorch", here, path)
        _set_threads(threads, path)
        try:
            self._run = load_method(path)
        except RuntimeError as error:
            raise ArtifactError(
                f"ExecuTorch {here} cannot load it: {str(error).splitlines()[0]}",
                where=path,
                hint="It may need a newer executorch; export it again.",
            ) from error
        self._take(name, program, threads)
        _in_use.add(self)

    def _take(self, name: str, program: Program, threads: int) -> None:
        self.info = describe(name, program, "CPU, XNNPACK")
        self.preprocessing, self.threads = program.prepared, threads
        self.classes, self.class_names, self.data = program.classes, program.class_names, program.data
        self.task = name_by_logits((program.classes,), program.task)

    def run(self, images_BCHW: np.ndarray) -> np.ndarray:
        return self._run(images_BCHW)[0][:, 0]


def _set_threads(threads: int, path: Path) -> None:
    """Have XNNPACK's threads of this process be so many; a program keeps those that it was loaded with.

    Raises:
        UsageError: another program is in use with another number.
    """
    from executorch.extension.pybindings import portable_lib

    with quiet(native=True):
        here = portable_lib._threadpool_get_thread_count()
    if here == threads:
        return
    if any(other.threads != threads for other in _in_use):
        raise UsageError(
            "All ExecuTorch programs of a process share their threads, and another one is open with other threads.",
            where=path,
            hint=f"Give all of them the same {parameter('threads')}.",
        )
    with quiet(native=True):
        portable_lib._unsafe_reset_threadpool(threads)
