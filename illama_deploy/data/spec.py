"""`SCHEME:PATH?OPTION=VALUE`, the one way to name data; a path alone is understood by what stands there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DataError, parameter
from ..names import shown
from .classes import NAMES_FILES, read_names
from .digits import open_digits
from .folder import open_folder
from .listing import open_listing
from .parquet import open_parquet
from .segmentation import open_segmentation
from .source import ROLES, Request, Source
from .timm_dataset import open_timm

__all__ = ["SCHEMES", "data_paths", "open_data", "spec_from"]

Opener = Callable[[Request], Source]


@dataclass(frozen=True)
class Scheme:
    """One kind of data.

    Attributes:
        open: opens it.
        takes: a spec as it is written, and what it names.
        place: what stands behind the colon: a `path` of this machine, a `name`, or nothing.
        options: behind `?`, besides `classes`.
        names_beside: a file of class names may lie in its folder.
    """

    open: Opener
    takes: str
    place: Literal["path", "name", ""] = "path"
    options: tuple[str, ...] = ()
    names_beside: bool = False


SCHEMES = {
    "digits": Scheme(open_digits, "digits: scikit-learn's handwritten digits", place=""),
    "folder": Scheme(
        open_folder,
        "folder:PATH: one folder per class, perhaps under split folders; to calibrate, any folder of images",
        names_beside=True,
    ),
    "parquet": Scheme(
        open_parquet,
        "parquet:PATH: Hugging Face parquet, a file or a directory of split-named shards",
        options=("image", "label"),
        names_beside=True,
    ),
    "list": Scheme(open_listing, "list:PATH: a text file with the path of an image on each line; only to calibrate"),
    "segmentation": Scheme(
        open_segmentation, "segmentation:PATH: images/SPLIT and annotations/SPLIT, a label for every pixel"
    ),
    "timm": Scheme(
        open_timm,
        "timm:NAME?root=PATH: a data set on this machine, such as timm:torch/cifar10?root=data",
        place="name",
        options=("root",),
    ),
}
#: `?classes=`: class names are not held to the network's, labels are taken as the numbers that they are.
IGNORE_NAMES = "ignore"


def open_data(
    spec: str | os.PathLike[str],
    split: str | None = None,
    *,
    role: Literal["train", "calibrate", "evaluate"],
    labels: bool | None = None,
) -> Source:
    """Open a data spec.

    Args:
        spec: as in `SCHEMES`, or a path. Each takes `?classes=FILE`, class names in the order of labels, or
            `?classes=ignore`, so that names are not compared.
        split: name of the split; where not given, the usual one for `role` (train to train and to calibrate, test or
            validation to evaluate); "" for data that has no splits.
        labels: whether they are needed; where not given, for every role but to calibrate.

    Raises:
        DataError: unknown scheme, nothing there, no such split, nothing in it, no labels although they are needed.
    """
    given = os.fspath(spec)
    scheme, path, options = _parse(given)
    kind = SCHEMES[scheme]
    if unknown := [name for name in options if name not in (*kind.options, "classes")]:
        raise DataError(
            f"A {scheme} spec does not take {shown(unknown[0])!r}.",
            where=shown(given),
            hint=f"Behind '?' it takes {', '.join((*kind.options, 'classes'))}.",
        )
    names = _names(scheme, path, options)
    wanted = ROLES[role] if split is None else (split,) if split else ()
    source = kind.open(Request(path, wanted, bool(split), options, names))
    source.spec = _spelled(scheme, path, options)
    source.by_name = options.get("classes") != IGNORE_NAMES
    if not len(source):
        seen = f" ({'; '.join(source.notes)})" if source.notes else ""
        raise DataError(
            f"There is no image in it{seen}.",
            where=shown(given),
            hint=f"Check the path and the split ({parameter('split')}).",
        )
    if role != "calibrate" if labels is None else labels:
        source.require_labels()
    return source


def data_paths(spec: str | os.PathLike[str] | None) -> list[Path]:
    """The files and folders that a data spec names, which no output may replace; none where it is no spec."""
    if not spec:
        return []
    try:
        _, path, options = _parse(os.fspath(spec))
    except DataError:
        return []
    named = [path, *(value for key, value in options.items() if key == "root" or value != IGNORE_NAMES)]
    return [Path(one) for one in named if one and os.path.lexists(one)]


def spec_from(spec: str, folder: Path) -> str:
    """A spec that was opened from a folder, as it is written from anywhere."""
    scheme, _, rest = spec.partition(":")
    kind = SCHEMES[scheme]
    if kind.place != "name" and os.path.lexists(folder / rest):
        return _spelled(scheme, str(folder / rest) if rest else "", {})
    path, _, query = rest.partition("?")
    options = dict(part.partition("=")[::2] for part in query.split("&") if part)
    named = {key: value if value == IGNORE_NAMES else str(folder / value) for key, value in options.items()}
    places = {**options, **{key: value for key, value in named.items() if key in ("root", "classes")}}
    return _spelled(scheme, path if kind.place == "name" or not path else str(folder / path), places)


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, path and options.

    Raises:
        DataError: it is no spec.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in SCHEMES and (found := _scheme_of(spec)):
        scheme, rest = found, spec
    elif scheme not in SCHEMES or (SCHEMES[scheme].place == "") == bool(rest.partition("?")[0]):
        known = "\n         ".join(kind.takes for kind in SCHEMES.values())
        raise DataError(f"There is no data spec {shown(spec)!r}.", hint=f"Use one of\n         {known}")
    if SCHEMES[scheme].place != "name" and os.path.lexists(rest):
        return scheme, rest, {}
    path, _, query = rest.partition("?")
    return scheme, path, dict(part.partition("=")[::2] for part in query.split("&") if part)


def _scheme_of(spec: str) -> str | None:
    """The scheme of a path alone, by what stands there; None where nothing does."""
    path = Path(spec if os.path.lexists(spec) else spec.partition("?")[0])
    try:
        if path.is_dir():
            if (path / "images").is_dir() and (path / "annotations").is_dir():
                return "segmentation"
            places = [path, path / "data", *(inner for inner in path.iterdir() if inner.is_dir())]
            return "parquet" if any(next(place.glob("*.parquet"), None) for place in places) else "folder"
        if not path.is_file():
            return None
    except (OSError, ValueError):
        return None
    if path.suffix == ".parquet":
        return "parquet"
    if path.suffix in (".txt", ".lst"):
        return "list"
    raise DataError(
        "A file can be data as parquet, or as a list of paths.",
        where=shown(path),
        hint=f"Write {parameter(data=f'parquet:{shown(path)}')} or {parameter(data=f'list:{shown(path)}')}, or give "
        "the folder of an image.",
    )


def _spelled(scheme: str, path: str, options: dict[str, str]) -> str:
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return scheme + (f":{path}" if path else "") + (f"?{query}" if query else "")


def _names(scheme: str, path: str, options: dict[str, str]) -> tuple[str, ...]:
    """Class names of a file that the spec names, or that lies in the data's folder."""
    named = options.get("classes")
    if named is not None:
        return () if named == IGNORE_NAMES else read_names(Path(named))
    if not SCHEMES[scheme].names_beside:
        return ()
    place = Path(path) if scheme == "folder" or Path(path).is_dir() else Path(path).parent
    found = [place / name for name in NAMES_FILES if (place / name).is_file()]
    return read_names(found[0]) if found else ()
