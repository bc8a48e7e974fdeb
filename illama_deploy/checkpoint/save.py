"""Write a float checkpoint with its metadata, so that nothing has to be said when it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..atomic import new_file
from ..model.config import IllamaConfig
from ..model.families import geometry_of
from ..model.network import NetworkConfig
from ..preprocessing import Preprocessing
from .metadata import EMBEDDED
from .seal import SEAL_KEY, seal_tensors
from .torch_file import METADATA_KEY

__all__ = ["save_checkpoint"]


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    config: NetworkConfig,
    preprocessing: Preprocessing,
    *,
    classes: Sequence[str] = (),
    data: str | None = None,
    force: bool = False,
) -> None:
    """Write `.safetensors`; the header says geometry, preprocessing and classes, and carries a seal over all of it.

    Args:
        data: what it was trained on; kept where it is `digits`, since any other spec is a place on this machine.

    Raises:
        ArtifactError: it exists (without `force`), or cannot be written.
    """
    from safetensors.torch import save_file

    said = (
        {"heads": config.heads, "image_size": list(config.image_size)}
        if isinstance(config, IllamaConfig)
        else {"geometry": geometry_of(config)}
    )
    metadata = {
        **said,
        "preprocessing": preprocessing.to_dict(),
        "classes": list(classes),
        "data": data if data == EMBEDDED else None,
        **({"variation": config.variation} if isinstance(config, IllamaConfig) and config.variation else {}),
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    # One entry, since the order of several in a safetensors header is no fixed one.
    sealed = {**metadata, SEAL_KEY: seal_tensors(metadata, tensors, tensors.__getitem__)}
    with new_file(path, force=force) as aside:
        save_file(tensors, aside, {METADATA_KEY: json.dumps(sealed, sort_keys=True)})
