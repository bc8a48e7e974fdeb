"""The families of networks: one line each. Files name them, so their names stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..tables import typed
from .config import IllamaConfig
from .illama import Illama
from .network import Network, NetworkConfig
from .vit import Vit, VitConfig

__all__ = ["FAMILIES", "build_network", "geometry_from", "geometry_of"]

#: Name of the family: its geometry, and the network made of it.
FAMILIES: dict[str, tuple[type[Any], type[Any]]] = {
    "illama": (IllamaConfig, Illama),
    "vit": (VitConfig, Vit),
}
#: What is meant where a file names none.
FIRST = "illama"


def build_network(config: NetworkConfig, *, drop_path: float = 0.0) -> Network:
    """Make a network; its values are to be loaded.

    Args:
        drop_path: of the last block, in training; the rate rises linearly to it.
    """
    network: Network = FAMILIES[config.family][1](config, drop_path=drop_path)
    return network


def geometry_of(config: NetworkConfig) -> dict[str, Any]:
    """A geometry as plain values, for a manifest."""
    values: dict[str, Any] = asdict(config)  # type: ignore[call-overload]
    return values if config.family == FIRST else {"family": config.family, **values}


def geometry_from(values: Mapping[str, Any]) -> NetworkConfig:
    """What `geometry_of` wrote.

    Raises:
        ValueError: in words; no such family, or values that cannot be.
    """
    rest = dict(values)
    family = rest.pop("family", FIRST)
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"there is no family of networks {str(family)[:40]!r}")
    config: NetworkConfig = typed(FAMILIES[family][0], rest)
    return config
