"""Layer by layer: what was exported, in its runtime, against the network in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ExportError, parameter
from ..model.network import Network
from ..quant.quality import NOISELESS_DB, sqnr_db

__all__ = ["IMAGES", "PARITY_DB", "LayerParity", "Parity", "agreement", "torch_outputs"]

#: A layer departs where its error is above a hundredth of its signal's power. Rounding alone gives 35 to 60 dB.
PARITY_DB = 20.0
#: Images that layers are compared on: an odd number; one of them is also run alone.
IMAGES = 3


@dataclass(frozen=True)
class LayerParity:
    """One GEMM: its signal-to-noise ratio in the runtime against torch, in dB, all earlier errors included."""

    name: str
    sqnr_db: float


@dataclass(frozen=True)
class Parity:
    """All GEMMs in order of execution, up to the first that departs.

    Attributes:
        runtime: what ran the exported graph.
        departs: name of the first layer below the limit, if any.
    """

    runtime: str
    layers: tuple[LayerParity, ...]
    departs: str | None

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "runtime": self.runtime,
            "departs": self.departs,
            "layers": {layer.name: round(layer.sqnr_db, 2) for layer in self.layers},
        }

    def demand(self) -> Parity:
        """Return it if no layer departs.

        Raises:
            ExportError: one does; it is named.
        """
        if self.departs is not None:
            last = self.layers[-1]
            raise ExportError(
                f"{self.runtime} departs from torch at {last.name}: {last.sqnr_db:.1f} dB where {PARITY_DB:.0f} are "
                f"the least ({len(self.layers) - 1} GEMMs before it agree).",
                where=last.name,
                hint=f"Leave that site in float (quantize {parameter('exclude')}), or try another version of the "
                "runtime.",
            )
        return self

    def __str__(self) -> str:
        least = min(self.layers, key=lambda layer: layer.sqnr_db)
        return (
            f"{len(self.layers)} GEMMs compared with torch in {self.runtime}: least agreement {least.sqnr_db:.1f} dB "
            f"at {least.name}" + (f"; {self.departs} departs" if self.departs else "")
        )


def agreement(wanted: Tensor, found: Tensor) -> float:
    """Signal to noise in dB of a GEMM's output against torch's; -200 where it is no number."""
    noise = float((found - wanted).double().square().sum())
    return sqnr_db(float(wanted.double().square().sum()), noise) if math.isfinite(noise) else -NOISELESS_DB


@torch.inference_mode()
def torch_outputs(network: Network, sites: set[str], images: Tensor) -> dict[str, Tensor]:
    """What modules give for images, by their names."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            outputs[name] = output.float()

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in sites]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
