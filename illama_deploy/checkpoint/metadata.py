"""What our own files say beside the tensors, as typed values that fit the network."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DeployError
from ..model.config import VARIATIONS
from ..model.network import NetworkConfig
from ..preprocessing import Preprocessing
from ..tables import typed
from .seal import SEAL_KEY
from .torch_file import METADATA_KEY

__all__ = ["EMBEDDED", "EMBEDDED_FILE", "Metadata"]

#: The embedded default's name, accepted wherever a checkpoint's path is; and the name of its data.
EMBEDDED = "digits"
EMBEDDED_FILE = Path(__file__).parents[1] / "assets" / f"{EMBEDDED}.safetensors"


@dataclass(frozen=True)
class Metadata:
    """Every field may be absent; see `Checkpoint`.

    Attributes:
        image_size: the trained one.
        data: what it was trained on. It comes out of a file, so it may be shown, and opened only where it is `digits`.
        variation: options of `IllamaConfig` in which the network differs from iLLaMA.
        geometry: of a network that is none.
    """

    heads: int | None = None
    image_size: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    data: str | None = None
    variation: dict[str, str] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Any, path: Path) -> Metadata:
        """Take them from a file, which may hold anything.

        Raises:
            CheckpointError: a field of another type, or out of bounds.
        """
        try:
            if not isinstance(values, dict):
                raise ValueError(f"it is {type(values).__name__}, and no table")
            if unknown := {str(key)[:80] for key in values} - {SEAL_KEY, *(each.name for each in fields(cls))}:
                raise ValueError(f"it does not know {', '.join(sorted(unknown)[:5])}")
            own = {key: value for key, value in values.items() if key != "preprocessing"}
            about = typed(cls, own)
            if "preprocessing" in values:
                about = replace(about, preprocessing=Preprocessing.from_dict(values["preprocessing"]))
            if unknown := about.variation.keys() - VARIATIONS.keys():
                raise ValueError(f"it does not know the variation {', '.join(sorted(unknown)[:5])}")
        except (DeployError, ValueError) as error:
            problem = error.what if isinstance(error, DeployError) else str(error)
            raise _unusable(problem, path) from error
        return about

    def require_fit(self, config: NetworkConfig, path: Path) -> None:
        """Compare with the network that the tensors are.

        Raises:
            CheckpointError: another size, other channels, or another number of classes.
        """
        if self.classes and len(self.classes) != config.classes:
            raise _unusable(f"it names {len(self.classes)} classes, and the network has {config.classes}", path)
        if (prepared := self.preprocessing) is None:
            return
        if prepared.channels != config.channels:
            problem = f"its preprocessing makes {prepared.channels} channels, and the network takes {config.channels}"
            raise _unusable(problem, path)
        if prepared.size != config.image_size:
            made, taken = (f"{height}×{width}" for height, width in (prepared.size, config.image_size))
            raise _unusable(f"its preprocessing makes images of {made}, and the network takes {taken}", path)


def _unusable(problem: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"Its metadata ({METADATA_KEY}) cannot be used: {problem.rstrip('.')}.",
        where=path,
        hint="Save it again with illama_deploy, or as a plain state dict.",
    )
