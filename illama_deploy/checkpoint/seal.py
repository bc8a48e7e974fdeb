"""A hash over a checkpoint's metadata and tensors, kept in its header: what was altered afterwards is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["SEAL_KEY", "seal_tensors"]

#: Its key in the metadata.
SEAL_KEY = "sha256"


def seal_tensors(metadata: Mapping[str, Any], names: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """The hash, in hexadecimal, whatever the order of the tensors in the file.

    Args:
        metadata: plain values; what stands under `SEAL_KEY` is not covered.
        tensor: gives a tensor by its name; asked once for each, in the order of names.
    """
    bare = {key: value for key, value in metadata.items() if key != SEAL_KEY}
    digest = hashlib.sha256(json.dumps(bare, sort_keys=True).encode())
    for name in sorted(names):
        value = tensor(name)
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
