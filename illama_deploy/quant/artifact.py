"""The quantized checkpoint: a directory of `model.safetensors` (integers, scales) and `manifest.json`.

The same input gives the same bytes: no clock, no random name, sorted keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArtifactError, DeployError
from ..formats import Format, parse_format
from ..hashing import canonical_json, sha256_file
from ..model.illama import Illama, IllamaConfig
from ..preprocessing import Preprocessing
from ..recipe import Recipe
from ..rewrites import restructure
from .modules import QuantWeighted
from .network import quantized_modules, restructure_sites
from .packing import pack, packed_bits, unpack

__all__ = ["MANIFEST", "SCHEMA", "WEIGHTS", "QuantizedArtifact", "load_quantized", "save_quantized", "stored_size"]

SCHEMA = "illama-deploy/quantized/3"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class QuantizedArtifact:
    """A loaded quantized checkpoint.

    Attributes:
        model: the network in evaluation mode, quantized sites in place.
        manifest: as stored.
        manifest_sha256: of the manifest file; it names this artifact.
    """

    path: Path
    model: Illama
    manifest: dict[str, Any]
    manifest_sha256: str

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return Recipe.from_dict(self.manifest["recipe"])

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of images."""
        return Preprocessing.from_dict(self.manifest["preprocessing"])

    @property
    def formats(self) -> dict[str, Format]:
        """The quantized sites and the format of each."""
        return {name: module.format for name, module in quantized_modules(self.model)}


def save_quantized(directory: Path, model: Illama, manifest: Mapping[str, Any]) -> None:
    """Write both files into an existing, empty directory; geometry and hashes are added to the manifest."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {key: t.detach().contiguous() for key, t in model.state_dict().items()}
    for key, bits in _packed(model).items():
        tensors[key] = pack(tensors[key], bits)
    save_file(tensors, directory / WEIGHTS, {"schema": SCHEMA})
    complete = {
        "schema": SCHEMA,
        **manifest,
        "geometry": asdict(model.config),
        "weights": {"file": WEIGHTS, "sha256": sha256_file(directory / WEIGHTS)},
    }
    (directory / MANIFEST).write_text(canonical_json(complete), encoding="utf-8")


def stored_size(config: IllamaConfig, rewrites: Sequence[str], formats: Mapping[str, Format]) -> int:
    """Bytes of the weights file that `save_quantized` would write, to the byte, for formats of sites."""
    from safetensors.torch import save

    with torch.device("meta"):
        model = Illama(config)
        restructure(model, rewrites)
        restructure_sites(model, formats)
    tensors = {key: torch.zeros(t.shape, dtype=t.dtype) for key, t in model.state_dict().items()}
    for key, bits in _packed(model).items():
        tensors[key] = torch.zeros(-(-tensors[key].numel() * bits // 8), dtype=torch.uint8)
    return len(save(tensors, {"schema": SCHEMA}))


def load_quantized(directory: str | Path) -> QuantizedArtifact:
    """Load what `save_quantized` wrote, checking that weights and manifest belong together.

    Raises:
        ArtifactError: a file is missing, damaged, edited, or of another schema version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    path = directory / MANIFEST
    again = "Make it again: illama-deploy quantize."
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing = "There is no such directory." if not directory.exists() else "manifest.json is missing."
        raise ArtifactError(
            f"It is no quantized checkpoint: {missing}", where=directory, hint="Give what 'quantize' wrote."
        ) from None
    except NotADirectoryError:
        raise ArtifactError(
            "It is no quantized checkpoint: it is a file, and a directory is wanted.",
            where=directory,
            hint="Give what 'quantize' wrote.",
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"The manifest cannot be read: {error}.", where=path, hint=again) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ArtifactError(f"The manifest's schema is {found!r}; {SCHEMA!r} is needed.", where=path, hint=again)
    weights = directory / WEIGHTS
    try:
        if sha256_file(weights) != manifest["weights"]["sha256"]:
            raise ArtifactError(
                "The weights are not those that the manifest was written for (their hash differs).",
                where=weights,
                hint=again,
            )
        geometry = {**manifest["geometry"], "image_size": tuple(manifest["geometry"]["image_size"])}
        model = Illama(IllamaConfig(**geometry))
        recipe = Recipe.from_dict(manifest["recipe"], where=path)
        restructure(model, recipe.rewrites)
        sites = {name: parse_format(site["format"]) for name, site in manifest["sites"].items()}
        restructure_sites(model, sites)
        tensors, shapes = load_file(weights), model.state_dict()
        for key, bits in _packed(model).items():
            tensors[key] = unpack(tensors[key], shapes[key].shape, bits)
        model.load_state_dict(tensors)
        _check_manifest(manifest, model, path)
    except DeployError as error:
        error.where = error.where or path
        raise
    except (
        OSError,
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        AttributeError,
    ) as error:
        raise ArtifactError(
            f"The quantized checkpoint is damaged: {str(error).splitlines()[0]}", where=directory, hint=again
        ) from error
    model.requires_grad_(False)  # integers are not trained
    return QuantizedArtifact(directory, model.eval(), manifest, sha256_file(path))


def _packed(model: Illama) -> dict[str, int]:
    """Weights that are stored several to a byte: key to bits."""
    bits = {
        f"{name}.weight_q": packed_bits(module.format.weights.bits)
        for name, module in quantized_modules(model)
        if isinstance(module, QuantWeighted)
    }
    return {key: width for key, width in bits.items() if width < 8}


def _check_manifest(manifest: dict[str, Any], model: Illama, where: Path) -> None:
    """Look at what later steps read, so that they need not."""
    preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    if (preprocessing.channels, preprocessing.size) != (model.config.channels, model.config.image_size):
        raise ValueError("its preprocessing does not fit its geometry")
    origin, data = manifest["source"], manifest["data"]
    texts = (manifest["format"], data["kind"], data["split"], origin["name"], origin["sha256"], *manifest["classes"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(origin["ema"], bool):
        raise TypeError(f"a value in {where.name} has the wrong type")
