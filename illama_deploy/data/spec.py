"""`SCHEME:PATH`, the one way to name data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ..errors import DataError
from .digits import open_digits
from .folder import open_folder
from .parquet import open_parquet
from .segmentation import open_segmentation
from .source import ROLES, Source
from .timm_dataset import open_timm

__all__ = ["SCHEMES", "open_data"]

Opener = Callable[[str, tuple[str, ...], bool], Source]

#: Scheme to (opener, what it takes). An opener gets the rest of the spec, split names to try in order,
#: and whether the user named the split (so that one which isn't there is an error).
SCHEMES: dict[str, tuple[Opener, str]] = {
    "digits": (open_digits, "digits: scikit-learn's handwritten digits"),
    "folder": (open_folder, "folder:PATH: one folder per class, perhaps under split folders"),
    "parquet": (
        open_parquet,
        "parquet:PATH: Hugging Face parquet, a file or a directory of split-named shards",
    ),
    "segmentation": (
        open_segmentation,
        "segmentation:PATH: images/SPLIT and annotations/SPLIT, a label for every pixel",
    ),
    "timm": (open_timm, "timm:NAME[?root=PATH]: any timm data set, such as timm:torch/cifar10?root=data"),
}


def open_data(spec: str, split: str | None = None, *, role: Literal["train", "calibrate", "evaluate"]) -> Source:
    """Open a data spec.

    Args:
        split: name of the split; where not given, the usual one for `role` (train to train and to calibrate, test or
            validation to evaluate).

    Raises:
        DataError: unknown scheme, nothing there, no such split, nothing in it.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in SCHEMES or (scheme == "digits") == bool(rest):
        known = "\n         ".join(text for _, text in SCHEMES.values())
        raise DataError(f"There is no data spec {spec!r}.", hint=f"Use one of\n         {known}")
    opener, _ = SCHEMES[scheme]
    source = opener(rest, (split,) if split else ROLES[role], split is not None)
    source.spec = spec
    if not len(source):
        raise DataError("There is no image in it.", where=spec, hint="Check the path and the split (--split).")
    return source
