"""Which images a step is about: those that the user named, now or when the artifact was made on this machine."""

from __future__ import annotations

from pathlib import Path

from ...data import Source, data_paths, open_data, spec_from, split_kind
from ...errors import DataError, UsageError, parameter
from ...memory import images_of
from ...quant import QuantizedArtifact

__all__ = ["EMBEDDED_IMAGES", "calibration_source", "which_images"]

#: The only data that a file may name: it is part of this package.
EMBEDDED_IMAGES = "digits"


def which_images(named: str | None, own: str | None, *sha256: str | None, what: str) -> str:
    """The data spec to open.

    Args:
        named: as the user typed it now.
        own: what the artifact says of itself; it is believed where that is the embedded data.
        sha256: hashes of the artifact, and of those that it was made from.
        what: that needs images, as a sentence opens: "Calibration".

    Raises:
        UsageError: nobody has named any.
    """
    if named is not None:
        return named
    if own == EMBEDDED_IMAGES:
        return own
    known = images_of(*sha256)
    if known is None and own is not None and ":" in own:
        raise UsageError(
            f"{what} needs images. A file names {own!r}, and what a file names is not opened here.",
            hint=f"If that is what you mean, type it: {parameter(data=own)}",
        )
    if known is None:
        raise UsageError(
            f"{what} needs images, and which ones belong here has not been said on this machine.",
            hint=f"Give them with {parameter('data')}, such as {parameter(data='folder:PATH')} or "
            f"{parameter(data='parquet:PATH')}.",
        )
    return known.spec if Path(known.folder) == Path.cwd() else spec_from(known.spec, Path(known.folder))


def calibrated_on(source: Source, *sha256: str | None) -> str | None:
    """What to say where the images are those that a quantized network was calibrated on, as far as is known here.

    Args:
        source: images that it is judged on.
        sha256: hashes of the network.
    """
    known = images_of(*sha256)
    if known is None or (source.split and split_kind(source.split) != "train"):
        return None
    theirs, ours = data_paths(spec_from(known.spec, Path(known.folder))), data_paths(source.spec)
    if not ours or [path.resolve() for path in theirs] != [path.resolve() for path in ours]:
        return None
    which = f"of the split {source.split}" if source.split else "of this data, which has no splits"
    return f"the network was calibrated on images {which}, and is judged on them"


def calibration_source(artifact: QuantizedArtifact, *, named: str | None = None, what: str = "This") -> Source:
    """Open the images again that a quantized checkpoint was calibrated on.

    Raises:
        UsageError: nobody has named them on this machine.
        DataError: they cannot be opened, or are not those.
    """
    about = artifact.manifest["data"]
    spec = which_images(
        named, about["kind"], artifact.manifest_sha256, artifact.manifest["source"]["sha256"], what=what
    )
    source = open_data(spec, about["split"], role="calibrate")
    if len(source) != about["images"]:
        raise DataError(
            f"There are {len(source)} images, and there were {about['images']} when it was calibrated on them.",
            where=spec,
            hint="Name the images of then, or quantize again.",
        )
    return source
