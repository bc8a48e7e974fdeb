"""The quantized checkpoint: a directory of `model.safetensors` (integers, scales) and `manifest.json`.

The same input gives the same bytes: no clock, no random name, sorted keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArtifactError, DeployError
from ..formats import Format
from ..hashing import sha256_file
from ..model.families import build_network, geometry_of
from ..model.network import Network, NetworkConfig
from ..paths import require_utf8
from ..preprocessing import Preprocessing
from ..recipe import Recipe
from ..rewrites import restructure
from ..sealed import read_sealed, write_sealed
from ..versions import cpu
from .manifest import Manifest, parse_manifest
from .modules import QuantWeighted
from .network import quantized_modules, restructure_sites
from .packing import pack, packed_bits, unpack
from .sites import find_sites
from .validate import check_ranges, check_shapes, check_values

__all__ = ["MANIFEST", "SCHEMA", "WEIGHTS", "QuantizedArtifact", "load_quantized", "save_quantized", "stored_size"]

SCHEMA = "illama-deploy/quantized/3"
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
AGAIN = "Make it again: illama-deploy quantize."


@dataclass(frozen=True)
class QuantizedArtifact:
    """A loaded quantized checkpoint.

    Attributes:
        model: the network in evaluation mode, quantized sites in place.
        manifest: as stored.
        about: the same in typed values.
        manifest_sha256: of the manifest file; it names this artifact.
    """

    path: Path
    model: Network
    manifest: dict[str, Any]
    about: Manifest
    manifest_sha256: str

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.about.resolved_recipe

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of images."""
        return self.about.resolved_preprocessing

    @property
    def formats(self) -> dict[str, Format]:
        """The quantized sites and the format of each."""
        return {name: module.format for name, module in quantized_modules(self.model)}


def save_quantized(directory: Path, model: Network, manifest: Mapping[str, Any]) -> None:
    """Write both files into an existing, empty directory; geometry, hashes and the CPU are added to the manifest."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {key: t.detach().contiguous() for key, t in model.state_dict().items()}
    for key, bits in _packed(model).items():
        tensors[key] = pack(tensors[key], bits)
    save_file(tensors, directory / WEIGHTS, {"schema": SCHEMA})
    complete = {
        "schema": SCHEMA,
        **manifest,
        "cpu": cpu(),
        "geometry": geometry_of(model.config),
        "weights": {"file": WEIGHTS, "sha256": sha256_file(directory / WEIGHTS)},
    }
    write_sealed(directory / MANIFEST, complete)


def stored_size(config: NetworkConfig, rewrites: Sequence[str], formats: Mapping[str, Format]) -> int:
    """Bytes of the weights file that `save_quantized` would write, to the byte, for formats of sites."""
    from safetensors.torch import save

    with torch.device("meta"):
        model = build_network(config)
        restructure(model, rewrites)
        restructure_sites(model, formats)
    tensors = {key: torch.zeros(t.shape, dtype=t.dtype) for key, t in model.state_dict().items()}
    for key, bits in _packed(model).items():
        tensors[key] = torch.zeros(-(-tensors[key].numel() * bits // 8), dtype=torch.uint8)
    return len(save(tensors, {"schema": SCHEMA}))


def load_quantized(directory: str | Path) -> QuantizedArtifact:
    """Load what `save_quantized` wrote.

    The manifest is held to its seal and read into typed values that fit each other, the weights' file to the hash in
    it; then, before anything is built, the file's header to the network that the manifest describes. Every tensor is
    looked at: integers within their formats, step sizes above zero, nothing that is not finite.

    Raises:
        ArtifactError: a file is missing, damaged, edited, or of another schema version, or a value cannot be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    path, weights = directory / MANIFEST, directory / WEIGHTS
    if not path.is_file():
        reason = (
            "There is no such directory."
            if not directory.exists()
            else "manifest.json is missing."
            if directory.is_dir()
            else "it is a file, and a directory is wanted."
        )
        raise ArtifactError(
            f"It is no quantized checkpoint: {reason}", where=directory, hint="Give what 'quantize' wrote."
        )
    require_utf8(weights)
    content = read_sealed(path, SCHEMA, what="The manifest", again=AGAIN)
    try:
        about = parse_manifest(content)
        if about.weights.file != WEIGHTS:
            raise ValueError(f"its weights do not lie in {WEIGHTS}")
        if sha256_file(weights) != about.weights.sha256:
            raise ArtifactError(
                "The weights are not those that the manifest was written for (their hash differs).",
                where=weights,
                hint=AGAIN,
            )
        check_shapes(weights, _expected(about, weights))
        model, tensors = _structure(about), load_file(weights)
        shapes = model.state_dict()
        for key, bits in _packed(model).items():
            tensors[key] = unpack(tensors[key], shapes[key].shape, bits)
        model.load_state_dict(tensors)
        check_values(model)
        check_ranges(model, about)
    except DeployError as error:
        error.where = error.where or path
        raise
    except OSError as error:
        raise ArtifactError(
            f"The weights cannot be read: {error.strerror or error}.", where=weights, hint=AGAIN
        ) from error
    except (
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        AttributeError,
    ) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"The quantized checkpoint is damaged: {what.rstrip('.')}.", where=directory, hint=AGAIN
        ) from error
    model.requires_grad_(False)  # integers are not trained
    return QuantizedArtifact(directory, model.eval(), content, about, sha256_file(path))


def _structure(about: Manifest) -> Network:
    """The network that a manifest describes, values unset."""
    model = build_network(about.resolved_geometry)
    restructure(model, about.resolved_recipe.rewrites)
    known = {site.name for site in find_sites(model)}
    if strange := sorted(about.formats.keys() - known):
        raise ValueError(f"there is no site {strange[0]!r}")
    restructure_sites(model, about.formats)
    return model


def _expected(about: Manifest, weights: Path) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Type and shape of each tensor that the file must hold; costs no memory, whatever the geometry."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        if about.resolved_geometry.depth > len(file.keys()):
            raise ValueError(f"its {about.resolved_geometry.depth} blocks have fewer tensors")
    with torch.device("meta"):
        model = _structure(about)
    expected = {key: (tensor.dtype, tensor.shape) for key, tensor in model.state_dict().items()}
    for key, bits in _packed(model).items():
        expected[key] = (torch.uint8, torch.Size([-(-expected[key][1].numel() * bits // 8)]))
    return expected


def _packed(model: Network) -> dict[str, int]:
    """Weights that are stored several to a byte: key to bits."""
    bits = {
        f"{name}.weight_q": packed_bits(module.format.weights.bits)
        for name, module in quantized_modules(model)
        if isinstance(module, QuantWeighted)
    }
    return {key: width for key, width in bits.items() if width < 8}
