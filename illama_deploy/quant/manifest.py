"""What a quantized checkpoint says of itself, in typed values that fit each other.

Whoever reads `manifest.json` gets a `Manifest` or an error in words, so that nothing behind it meets a wrong type, a
format that does not exist, or a number that is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DeployError
from ..formats import Format, parse_format
from ..model.families import geometry_from
from ..model.network import NetworkConfig
from ..preprocessing import Preprocessing
from ..recipe import Recipe
from ..tables import typed

__all__ = ["DataUsed", "InputRange", "Manifest", "Origin", "SiteRecord", "parse_manifest"]

HASH = re.compile(r"[0-9a-f]{64}")
#: What a figure in decibels may be (see `quality.sqnr_db`).
MOST_DB = 200.0


@dataclass(frozen=True)
class Origin:
    """The float checkpoint.

    Attributes:
        name: of its file, without a folder.
        ema: whether its averaged weights were taken.
    """

    name: str
    sha256: str
    heads: int
    ema: bool


@dataclass(frozen=True)
class DataUsed:
    """The calibration images.

    Attributes:
        kind: scheme of the data spec, such as `parquet`.
        images: how many there were.
        indices: those that were used, ascending.
        skipped: those of them that could not be decoded.
        notes: what was altered or guessed when they were read.
    """

    kind: str
    split: str
    images: int
    indices: tuple[int, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if list(self.indices) != sorted(set(self.indices)):
            raise ValueError("the calibration images are not in order, or one stands there twice")
        if self.indices and not 0 <= self.indices[0] <= self.indices[-1] < self.images:
            raise ValueError(f"a calibration image lies beyond the {self.images} of the data")
        if len(self.skipped) > len(self.indices):
            raise ValueError("more images were left out than taken")


@dataclass(frozen=True)
class InputRange:
    """Of one activation: the largest magnitude seen, what it is clipped at, and the step size."""

    max: float
    threshold: float
    scale: float

    def __post_init__(self) -> None:
        if not (self.max >= 0 and self.threshold >= 0 and self.scale > 0):
            raise ValueError("a range is not positive")


@dataclass(frozen=True)
class SiteRecord:
    """A quantized site."""

    format: str
    sqnr_db: float
    inputs: dict[str, InputRange]

    def __post_init__(self) -> None:
        _known_format(self.format)
        _decibels(self.sqnr_db)


@dataclass(frozen=True)
class WeightsFile:
    """The file of integers and scales."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ReconstructedBlock:
    """As `reconstruct.Reconstructed`."""

    before_db: float
    after_db: float

    def __post_init__(self) -> None:
        _decibels(self.before_db)
        _decibels(self.after_db)


@dataclass(frozen=True)
class Drop:
    """The measured drop of a search, in points, with its bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SearchSummary:
    """What a search kept to."""

    file: str
    limits: dict[str, float | None]
    images: int
    drop: Drop


@dataclass(frozen=True)
class Training:
    """What quantization-aware training did."""

    recipe: dict[str, Any]
    data: str
    start_sha256: str


@dataclass(frozen=True)
class Manifest:
    """All of `manifest.json`.

    Attributes:
        format: of all sites, or those that a search gave, such as `W4A8+W8A8`.
        recipe, geometry: as plain values; `resolved_recipe` and `resolved_geometry` are the values.
        kernels: format to the targets that run it, each with how.
        classes: names, or none.
        preprocessing: as plain values.
        versions: of the packages that the numbers depend on.
        cpu: what else they depend on: the instruction set that torch used, and the number of its threads.
        reconstructed: what reconstruction did, by block.
        sites: by module name.
    """

    schema: str
    format: str
    recipe: dict[str, Any]
    kernels: dict[str, dict[str, str]]
    source: Origin
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    data: DataUsed
    versions: dict[str, str]
    cpu: dict[str, str | int]
    reconstructed: dict[str, ReconstructedBlock]
    sqnr_images: int
    logit_sqnr_db: float
    sites: dict[str, SiteRecord]
    geometry: dict[str, Any]
    weights: WeightsFile
    content_sha256: str
    search: SearchSummary | None = None
    qat: Training | None = None

    def __post_init__(self) -> None:
        recipe, config, images = self.resolved_recipe, self.resolved_geometry, self.resolved_preprocessing
        for name in self.format.split("+"):
            if name != recipe.format and name not in {site.format for site in self.sites.values()}:
                raise ValueError(f"no site has the format {name!r}")
        if not self.sites:
            raise ValueError("it names no site")
        if (images.channels, images.size) != (config.channels, config.image_size):
            raise ValueError("its preprocessing does not fit its geometry")
        if self.source.heads != config.heads:
            raise ValueError(f"its source has {self.source.heads} heads and its geometry {config.heads}")
        if self.classes and len(self.classes) != config.classes:
            raise ValueError(f"it names {len(self.classes)} of {config.classes} classes")
        if not 0 <= self.sqnr_images <= len(self.data.indices):
            raise ValueError("its SQNR was taken on more images than there were")
        _decibels(self.logit_sqnr_db)
        hashes = [self.source.sha256, self.weights.sha256, *([self.qat.start_sha256] if self.qat else [])]
        if not all(HASH.fullmatch(one) for one in hashes):
            raise ValueError("a hash in it is none")
        if "/" in self.source.name or "\\" in self.source.name:
            raise ValueError("the name of its source is a path")

    @property
    def resolved_recipe(self) -> Recipe:
        """The recipe."""
        return Recipe.from_dict(self.recipe)

    @property
    def resolved_geometry(self) -> NetworkConfig:
        """Of the network."""
        try:
            return geometry_from(self.geometry)
        except ValueError as error:
            raise ValueError(str(error).replace("`$", "`$.geometry")) from None

    @property
    def resolved_preprocessing(self) -> Preprocessing:
        """What the network expects of images."""
        return Preprocessing.from_dict(self.preprocessing)

    @property
    def formats(self) -> dict[str, Format]:
        """The format of each site."""
        return {name: parse_format(site.format) for name, site in self.sites.items()}


def parse_manifest(content: Mapping[str, Any]) -> Manifest:
    """Typed values of a manifest's content.

    Raises:
        ValueError: in words: a value of another type, something that does not exist, or two that contradict each other.
    """
    try:
        return typed(Manifest, dict(content))
    except DeployError as error:
        raise ValueError(error.what.rstrip(".")) from error


def _known_format(name: str) -> None:
    try:
        parse_format(name)
    except DeployError as error:
        raise ValueError(error.what.rstrip(".")) from error


def _decibels(value: float) -> None:
    if not (math.isfinite(value) and abs(value) <= MOST_DB):
        raise ValueError(f"{value} is no ratio in dB")
