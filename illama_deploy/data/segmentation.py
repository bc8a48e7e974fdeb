"""Images with a label for every pixel, in ADE20K's layout: PATH/{images,annotations}/SPLIT/NAME, labels as PNG.

What a label means is said by PATH/classes.json, `{"classes": [NAME, ...], "ignore_index": 11}`: the number is the
class, and one number is no class. Without that file it is as in ADE20K: 0 is no class, and k the class k - 1 of 150,
whose names are in PATH/objectInfo150.txt if that is there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ..names import shown
from .classes import read_small
from .decode import BrokenMaskError, UndecodableError, decode, image_suffixes, open_image
from .scan import leave_out, visible_folders
from .source import Request, Sample, Source, find_split

__all__ = ["IGNORE", "labels_of", "open_segmentation"]

#: The label of a pixel of no class, in tensors (what torch's cross entropy leaves out) and in masks.
IGNORE, MASK_IGNORE = -100, 255
ADE20K_CLASSES = 150
ADE20K_NAMES = "objectInfo150.txt"


def labels_of(mask: Image.Image | Tensor) -> Tensor:
    """Labels of a sample's mask (or of its pixels, uint8 [H, W]), int64 [H, W], `IGNORE` where there is no class."""
    labels = (mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))).long()
    return labels.masked_fill(labels == MASK_IGNORE, IGNORE)


class Segmentation(Source):
    """Images of one split in the order of their names."""

    task = "segmentation"

    def __init__(self, root: Path, split: str) -> None:
        self.spec, self.split, self.places = f"segmentation:{root}", split, (root,)
        self.classes, self.table = _classes(root)
        files = sorted((root / "images" / split).iterdir())
        images = [path for path in files if path.suffix.lower() in image_suffixes() and not path.name.startswith(".")]
        if others := Counter(path.suffix.lower() or "no ending" for path in set(files) - set(images)):
            self.notes = (leave_out(others),)
        masks = root / "annotations" / split
        self.pairs = [(path, masks / f"{path.stem}.png") for path in images]
        known = {path.name for path in masks.iterdir()} if masks.is_dir() else set()
        if missing := [mask for _, mask in self.pairs if mask.name not in known]:
            raise DataError(
                f"{len(missing)} of {len(images)} images have no mask.",
                where=missing[0],
                hint="Lay masks out as annotations/SPLIT/NAME.png beside images/SPLIT/NAME.jpg.",
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            image, mask = self.pairs[i]
            yield Sample(i, shown(image), 0, partial(decode, str(image)), partial(self._mask, mask))

    def _mask(self, path: Path, size: tuple[int, int]) -> Image.Image:
        """The mask of an image of this (width, height): mode L, `MASK_IGNORE` where there is no class.

        Raises:
            BrokenMaskError: it cannot be decoded.
            DataError: it has another size, or labels that are no class.
        """
        try:
            values = np.array(open_image(path))
        except UndecodableError as error:
            raise BrokenMaskError(
                f"The mask cannot be decoded ({error}).",
                where=shown(path),
                hint="Mend it, or remove it with its image.",
            ) from error
        if values.ndim != 2 or values.dtype.kind not in "iub":
            raise DataError(
                f"The mask is no image of labels (it has shape {list(values.shape)}).",
                where=path,
                hint="Save one label for each pixel, as a grey or palette PNG.",
            )
        if values.shape[::-1] != size:
            raise DataError(
                f"The image has {size[0]}×{size[1]} pixels and its mask {values.shape[1]}×{values.shape[0]}.",
                where=path,
                hint="Give each image the mask that was made for it.",
            )
        low, high = int(values.min()), int(values.max())
        numbers = self.table[np.clip(values.astype(np.int64), 0, len(self.table) - 1)]
        if low < 0 or high >= len(self.table) or (numbers < 0).any():
            wrong = next(v for v in (low, high, *values.flat) if not 0 <= v < len(self.table) or self.table[v] < 0)
            raise DataError(
                f"The mask has label {wrong}, which is none of the {len(self.classes)} classes.",
                where=path,
                hint="Mend the mask, or say in classes.json what its labels mean.",
            )
        return Image.fromarray(numbers.astype(np.uint8))


def _classes(root: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and for each label in a file its number in a mask, int64; -1 where it has none."""
    path = root / "classes.json"
    try:
        if not path.exists():
            table = np.array([MASK_IGNORE, *range(ADE20K_CLASSES)])
            return _ade20k_names(root / ADE20K_NAMES), table
        about = json.loads(read_small(path))
        names, ignored = about["classes"], about.get("ignore_index", MASK_IGNORE)
        if not all(isinstance(name, str) for name in names) or isinstance(names, str) or type(ignored) is not int:
            raise TypeError("classes are a list of names, ignore_index is a number")
        if not 2 <= len(names) < MASK_IGNORE or not len(names) <= ignored < 2**16:
            raise ValueError(f"{len(names)} classes and ignore_index {ignored}")
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"What labels mean cannot be read ({error}).",
            where=path,
            hint='Write it as {"classes": ["sky", "road"], "ignore_index": 2}.',
        ) from error
    table = np.full(ignored + 1, -1)
    table[: len(names)] = range(len(names))
    table[ignored] = MASK_IGNORE
    return tuple(names), table


def _ade20k_names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return tuple(f"class {k}" for k in range(1, ADE20K_CLASSES + 1))
    names = [line.split("\t")[-1].split(",")[0].strip() for line in read_small(path).splitlines()[1:]]
    if len(names) != ADE20K_CLASSES:
        raise ValueError(f"{path.name} names {len(names)} classes, not {ADE20K_CLASSES}")
    return tuple(names)


def open_segmentation(request: Request) -> Source:
    """Open the first of the splits that exists."""
    root, there = Path(request.path), []
    try:
        if (root / "images").is_dir():
            there = visible_folders(root / "images")
            if (split := find_split(request.splits, there)) is not None:
                return Segmentation(root, split)
        if not root.is_dir():
            raise DataError("There is no such folder.", where=root, hint="Check the path after 'segmentation:'.")
    except OSError as error:
        raise DataError(
            f"Cannot read it: {error.strerror or error}.", where=root, hint="Give a folder that you may read."
        ) from error
    seen = f"; it has {', '.join(map(shown, there))}" if there else ""
    raise DataError(
        f"It has no folder images/{shown(' or images/'.join(request.splits) or 'SPLIT')}{seen}.",
        where=root,
        hint="Lay images out as images/SPLIT/NAME.jpg, and masks as annotations/SPLIT/NAME.png.",
    )
