"""`list:PATH`: a text file with the path of an image on each line, relative to the file. They have no labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..errors import DataError, parameter
from ..names import shown
from .decode import decode, open_regular
from .scan import counted
from .source import NO_LABEL, Request, Sample, Source

__all__ = ["Listing", "open_listing"]

#: Bytes of a list: some ten million paths.
MOST_BYTES = 1_000_000_000


class Listing(Source):
    """Images in the order of the list; one that is listed again is left out."""

    unlabelled = "a list of paths says no classes"

    def __init__(self, path: Path) -> None:
        self.spec, self.split, self.places = f"list:{path}", "", (path.parent,)
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES or b"\0" in content:
            raise DataError(
                "It is no text with a path on each line.", where=shown(path), hint=f"Check {parameter('data')}."
            )
        lines = [os.fsdecode(line.strip(b"\r")) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
        named = [line for line in lines if line.strip()]
        self.paths = list(dict.fromkeys(os.path.normpath(path.parent / line) for line in named))
        missing = [one for one in self.paths if not Path(one).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of the {counted(len(self.paths), 'file')} that it lists are not there.",
                where=shown(missing[0]),
                hint="Paths are relative to the list; write one on each line, with nothing beside it.",
            )
        if again := len(named) - len(self.paths):
            self.notes = (f"{counted(again, 'line')} left out that list an image again",)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        for i in indices:
            yield Sample(i, shown(self.paths[i]), NO_LABEL, partial(decode, self.paths[i]))


def open_listing(request: Request) -> Source:
    """Open a list, which has no splits."""
    path = Path(request.path)
    if request.named:
        raise DataError("A list of paths has no splits.", where=shown(path), hint=f"Leave {parameter('split')} out.")
    try:
        return Listing(path)
    except FileNotFoundError:
        raise DataError("There is no such file.", where=shown(path), hint="Check the path after 'list:'.") from None
    except OSError as error:
        raise DataError(
            f"The list cannot be read: {shown(error.strerror or error)}.", where=shown(path), hint="Check the path."
        ) from error
