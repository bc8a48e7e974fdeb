"""The processes that train together: one, or as many as torchrun started."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from ..environment import cpu_features

__all__ = ["Processes", "fast_precision", "join_processes", "writes"]


def fast_precision() -> str:
    """The recipe's `precision` that this machine is fastest at: CPUs without bfloat16 units emulate it."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(cpu_features()) else "float32"


def writes() -> bool:
    """Whether this process is the one that writes and speaks, of those that torchrun may have started."""
    return os.environ.get("RANK", "0") == "0"


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it: an update takes and frees the same hundreds of megabytes,
    and faulting their pages in anew costs a CPU up to 8 % of its time (`man mallopt`; elsewhere nothing happens)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, size in ((-1, 2**31 - 1), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(parameter, size)


@dataclass(frozen=True)
class Processes:
    """Attributes: count; rank (0 writes files); device that this one computes on."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def add(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def join_processes(threads: int | None = None) -> Iterator[Processes]:
    """Join the group that torchrun's environment describes; alone where there is none.

    Args:
        threads: of torch; within the block they may be changed again.
    """
    rank, count, local = (int(os.environ.get(key, default)) for key, default in
                          (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        keep_memory()
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    if count > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(rank, count, device)
    finally:
        torch.set_num_threads(before)
        if count > 1:
            dist.destroy_process_group()
