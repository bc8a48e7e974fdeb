"""Cue-conflict stimuli: the shape of one category with the texture of another.

Named as the public ones are, `SHAPEn-TEXTUREm.EXT` (`cat3-truck1.png`), in one folder or several.
Source: R. Geirhos et al., *ImageNet-trained CNNs are biased towards texture*, ICLR 2019.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from ..errors import DataError, parameter
from ..names import shown
from .decode import decode
from .scan import scan
from .source import Sample, Source

__all__ = ["CueConflict"]

NAME = re.compile(r"([a-z_ ]+?)\d+-([a-z_ ]+?)\d+", re.IGNORECASE)


class CueConflict(Source):
    """Stimuli in the order of their paths; a sample's label is its position.

    Attributes:
        shapes, textures: categories, stimulus by stimulus.
        no_conflict: stimuli left out, since their shape and texture agree.
    """

    def __init__(self, path: str | Path) -> None:
        root = Path(path)
        if not root.is_dir():
            raise DataError(
                "There is no such folder of stimuli.", where=root, hint=f"Check {parameter('cue_conflict')}."
            )
        self.spec, self.split = str(root), ""
        try:
            found = scan(root)
        except OSError as error:
            raise DataError(f"Cannot read it: {error.strerror}.", where=root, hint="Check its permissions.") from error
        files, self.notes = sorted(root / folder / name for folder, name in found.images), tuple(found.notes())
        named = [(file, NAME.fullmatch(file.stem)) for file in files]
        if unknown := [file for file, match in named if match is None]:
            raise DataError(
                f"{len(unknown)} of {len(files)} stimuli have unknown names, the first is {shown(unknown[0].name)}.",
                where=shown(unknown[0]),
                hint="Name them SHAPEn-TEXTUREm, as in cat3-truck1.png, or move them away.",
            )
        cues = [(file, match[1].lower(), match[2].lower()) for file, match in named if match is not None]
        conflicts = [cue for cue in cues if cue[1] != cue[2]]
        if not conflicts:
            raise DataError(
                "There is no cue-conflict stimulus in it.", where=root, hint=f"Check {parameter('cue_conflict')}."
            )
        self.no_conflict = len(cues) - len(conflicts)
        self.files, self.shapes, self.textures = zip(*conflicts, strict=True)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            yield Sample(i, shown(self.files[i]), i, partial(decode, str(self.files[i])))

    def require(self, categories: Collection[str], where: object) -> None:
        """Refuse categories that miss one of the stimuli's.

        Raises:
            DataError: naming what is missed, and how many stimuli show it.
        """
        shown = Counter([*self.shapes, *self.textures])
        if missing := sorted(set(shown) - set(categories)):
            raise DataError(
                "The mapping misses categories that stimuli show: "
                + ", ".join(f"{name} ({shown[name]} times)" for name in missing)
                + ".",
                where=where,
                hint="Add them to the mapping, or give a folder of stimuli without them.",
            )
