"""What a property is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..data import Loader
    from ..options.groups import PropertyOptions
    from ..runtime import Runtime

__all__ = ["Artifacts", "Property", "Row", "Subject"]

#: Names of artifacts, and the properties of each.
Artifacts = Sequence[tuple[str, dict[str, Any]]]
Row = tuple[str, ...]


class Subject(Protocol):
    """What is measured: an artifact, the evaluation images, and what was asked for."""

    runtime: Runtime
    loader: Loader
    options: PropertyOptions


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property: a frozen value. Its name is in `options/groups.py`, its part of the schema in `report.schema.json`.

    Attributes:
        name: as `--properties` takes it.
        title: of its table and of its section on pages.
        columns: of its table; the first `left` of them hold words.
        rows: of its table, from what was measured of all artifacts; none where it was not.
        measure: gives its figures; None of those that `steps/shared/properties.py` measures itself.
        cannot: why an artifact cannot show it, half a sentence, or None.
        hint: what to do then, where leaving it out is not all that helps.
        remark: under its table on pages. A property with charts has a section of its own in `properties.html.j2`.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    left: int = 2
    rows: Callable[[Artifacts], list[Row]]
    measure: Callable[[Subject], dict[str, Any]] | None = None
    cannot: Callable[[Runtime], str | None] = lambda runtime: None
    hint: str = ""
    remark: str = ""

    @property
    def key(self) -> str:
        """In reports."""
        return self.name.replace("-", "_")
